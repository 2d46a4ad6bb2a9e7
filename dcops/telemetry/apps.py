"""The Django app of telemetry."""

from django.apps import AppConfig


class TelemetryConfig(AppConfig):
    """Samples, rollups, packed hours and events."""

    name = "dcops.telemetry"
    label = "telemetry"

    def ready(self) -> None:
        """Register the system checks."""
        from dcops.telemetry import checks  # noqa: F401
