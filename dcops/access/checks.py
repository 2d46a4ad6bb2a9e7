"""Misconfiguration that must stop a start, as Django system checks.

access.E001 secret key too short · access.E002 plain HTTP beyond this machine · access.E003 server key readable by others ·
access.E004 a host pattern that lets any name in
"""

import ipaddress
import stat
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.checks import Error, register

MIN_SECRET_KEY = 50


def is_loopback(host: str) -> bool:
    """Whether a URL's host can only be this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@register("security")
def check_secret_key(**kwargs: Any) -> list[Error]:
    """access.E001: whoever guesses the key forges sessions."""
    del kwargs
    key = settings.SECRET_KEY
    if (
        len(key) >= MIN_SECRET_KEY
        and len(set(key)) >= 10
        and not key.startswith("django-insecure-")
    ):
        return []
    return [
        Error(
            f"DCOPS_SECRET_KEY is weak. Set it to {MIN_SECRET_KEY} or more random characters.",
            id="access.E001",
        )
    ]


@register("security")
def check_public_url(**kwargs: Any) -> list[Error]:
    """access.E002: passwords and tokens do not cross a network in the clear."""
    del kwargs
    url = urlsplit(settings.PUBLIC_URL)
    if url.scheme == "https" or (url.scheme == "http" and is_loopback(url.hostname or "")):
        return []
    return [
        Error(
            f"DCOPS_PUBLIC_URL is {settings.PUBLIC_URL!r}. Beyond this machine it must start with https://.",
            id="access.E002",
        )
    ]


@register("security")
def check_server_key(**kwargs: Any) -> list[Error]:
    """access.E003: the key that agents trust is the server's alone."""
    del kwargs
    path = settings.SERVER_KEY_FILE
    if not path.exists() or not path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        return []
    return [Error(f"Others can read {path}. Run: chmod 600 {path}", id="access.E003")]


@register("security")
def check_hosts(**kwargs: Any) -> list[Error]:
    """access.E004: a wildcard host lets a rebound DNS name read pages as the victim."""
    del kwargs
    if "*" not in settings.ALLOWED_HOSTS:
        return []
    return [Error("DCOPS_ALLOWED_HOSTS contains *. List the names people use.", id="access.E004")]
