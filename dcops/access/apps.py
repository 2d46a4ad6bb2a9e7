"""Django's entry for this package."""

from django.apps import AppConfig


class AccessConfig(AppConfig):
    name = "dcops.access"
    label = "access"

    def ready(self) -> None:
        """Register the system checks."""
        from dcops.access import checks  # noqa: F401 - imported for its registrations
