"""Django's entry for this package."""

from django.apps import AppConfig


class AuditConfig(AppConfig):
    name = "dcops.audit"
    label = "audit"
