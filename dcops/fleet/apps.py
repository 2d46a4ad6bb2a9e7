"""Django's entry for this package."""

from django.apps import AppConfig


class FleetConfig(AppConfig):
    name = "dcops.fleet"
    label = "fleet"
