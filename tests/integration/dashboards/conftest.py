"""What tests of pages share."""

import pytest


@pytest.fixture(autouse=True)
def _plain_static_files(settings, tmp_path):
    """Pages name static files without the manifest that collectstatic would write."""
    storage = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
    settings.STATIC_ROOT = tmp_path
    settings.STORAGES = settings.STORAGES | {"staticfiles": storage}
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
