"""The audit table. The database itself refuses to change or remove a row (see migration 0001 and access/sql/grants.sql)."""

from django.db import models


class AuditEvent(models.Model):
    """One thing that was done or refused. Written by actions.record and by nothing else."""

    id = models.BigAutoField(primary_key=True)
    at = models.DateTimeField()
    actor_kind = models.TextField()
    actor_id = models.TextField()
    actor_name = models.TextField()
    auth_method = models.TextField()
    source_ip = models.GenericIPAddressField(null=True)
    request_id = models.TextField()
    action = models.TextField()
    object_type = models.TextField()
    object_id = models.TextField()
    object_name = models.TextField()
    before = models.JSONField(null=True)
    after = models.JSONField(null=True)
    decision = models.TextField()
    reason = models.TextField()

    class Meta:
        db_table = "audit_event"
        indexes = [
            models.Index(fields=["object_type", "object_id", "-id"], name="audit_event_object"),
            models.Index(fields=["at"], name="audit_event_at"),
        ]
        constraints = [
            models.CheckConstraint(
                condition=models.Q(decision__in=["allowed", "denied"]),
                name="audit_event_decision",
            )
        ]

    def __str__(self) -> str:
        return f"{self.at:%Y-%m-%d %H:%M:%S} {self.actor_name} {self.action} {self.object_name}"
