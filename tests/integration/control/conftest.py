"""Three people; Django is not set up yet when this is imported, so their makers are fetched late."""

import pytest


def make_person(name, role):
    from dcops.access.actor import Role
    from tests.integration.control.cast import make_person

    return make_person(name, Role(role))


@pytest.fixture
def viewer(db):
    return make_person("vera", "viewer")


@pytest.fixture
def operator(db):
    return make_person("otto", "operator")


@pytest.fixture
def administrator(db):
    return make_person("ada", "administrator")


@pytest.fixture(autouse=True)
def _cheap_passwords(settings):
    """Argon2 is slow on purpose; that it is used at all has its own test."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture(autouse=True)
def _plain_static_files(settings, tmp_path):
    """Pages name static files without the manifest that collectstatic would write."""
    storage = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
    settings.STATIC_ROOT = tmp_path
    settings.STORAGES = settings.STORAGES | {"staticfiles": storage}


@pytest.fixture
def browser(client):
    """Return a function that gives a client signed in as someone."""

    def sign_in(user):
        client.force_login(user)
        return client

    return sign_in
