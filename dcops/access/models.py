"""People, their API tokens, the one-time set-up link and the sign-in throttle. Secrets are stored only as SHA-256."""

from django.conf import settings
from django.contrib.auth.models import AbstractUser
from django.db import models
from django.utils.translation import gettext_lazy as _

from dcops.access.actor import Role

ROLES = [
    (Role.VIEWER.value, _("viewer")),
    (Role.OPERATOR.value, _("operator")),
    (Role.ADMINISTRATOR.value, _("administrator")),
]


class User(AbstractUser):
    """A person. Access follows `role` alone; Django's own permissions and staff flags are not used."""

    role = models.CharField(max_length=20, choices=ROLES, default=Role.VIEWER.value)

    class Meta(AbstractUser.Meta):
        db_table = "access_user"
        constraints = [
            models.CheckConstraint(
                condition=models.Q(role__in=[role.value for role in Role]),
                name="access_user_role",
            )
        ]


class ApiToken(models.Model):
    """A credential for programs. Never reaches further than its owner's role of the moment."""

    id = models.CharField(primary_key=True, max_length=16)
    name = models.CharField(max_length=100)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="api_tokens"
    )
    role = models.CharField(max_length=20, choices=ROLES)
    secret_sha256 = models.BinaryField()
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    last_used_at = models.DateTimeField(null=True)
    revoked_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "access_api_token"

    def __str__(self) -> str:
        return f"{self.name} ({self.id})"


class SetupLink(models.Model):
    """A short-lived, single-use way in, for whoever holds a shell on the server: makes one administrator."""

    id = models.CharField(primary_key=True, max_length=16)
    secret_sha256 = models.BinaryField()
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    used_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "access_setup_link"

    def __str__(self) -> str:
        return self.id


class SignInThrottle(models.Model):
    """Failed sign-ins of one address under one name within a window; the key is a SHA-256 of both."""

    key = models.BinaryField(primary_key=True)
    failures = models.IntegerField()
    window_ends_at = models.DateTimeField()

    class Meta:
        db_table = "access_sign_in_throttle"
        indexes = [models.Index(fields=["window_ends_at"], name="access_throttle_ends")]

    def __str__(self) -> str:
        return f"{self.failures} until {self.window_ends_at:%H:%M:%S}"
