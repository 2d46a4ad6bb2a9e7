"""Django settings. Everything a site may change is an environment variable; docs are in README.md, "Settings"."""

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from django.utils.translation import gettext_lazy as _
from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict

from dcops.env import SettingError, env_bool, env_int, env_list, env_str

BASE_DIR = Path(__file__).resolve().parent.parent
DATA_DIR = Path(env_str("DCOPS_DATA_DIR", str(BASE_DIR / ".dcops")))

SECRET_KEY = env_str("DCOPS_SECRET_KEY")
DEBUG = False
ALLOWED_HOSTS = env_list("DCOPS_ALLOWED_HOSTS", "localhost,127.0.0.1,[::1]")
PUBLIC_URL = env_str("DCOPS_PUBLIC_URL", "http://localhost:8000")
SECURE_TRANSPORT = PUBLIC_URL.startswith("https://")
CSRF_TRUSTED_ORIGINS = [PUBLIC_URL]
CSRF_FAILURE_VIEW = "dashboards.pages.refusals.csrf_failure"

# The server's Ed25519 identity key (PEM, PKCS8) that join tokens pin, and the CA certificate it vouches for, if any.
SERVER_KEY_FILE = Path(env_str("DCOPS_SERVER_KEY_FILE", str(DATA_DIR / "server-key.pem")))
CA_FILE = Path(ca) if (ca := env_str("DCOPS_CA_FILE", "")) else None

INSTALLED_APPS = [
    "dcops.audit",
    "dcops.access",
    "dcops.fleet",
    "dcops.telemetry",
    "dashboards",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "channels",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "servestatic.middleware.ServeStaticMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "dcops.access.middleware.RequireSignInMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "dcops.urls"
ASGI_APPLICATION = "dcops.asgi.application"
WSGI_APPLICATION = "dcops.wsgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": False,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.template.context_processors.i18n",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "dashboards.context.shell",
            ],
            "libraries": {"units": "dashboards.templatetags.units"},
        },
    }
]


def database(url: str) -> dict[str, Any]:
    """Turn a PostgreSQL URL (host may be a percent-encoded socket directory; ?sslmode=… is kept) into Django's form.

    Raises SettingError for any other scheme, or a URL that PostgreSQL's own library cannot read.
    """
    if not url.startswith(("postgresql://", "postgres://")):
        raise SettingError(
            "DCOPS_DATABASE_URL must start with postgresql://. PostgreSQL is the only database dcops uses."
        )
    try:
        parts = {
            name: str(value) for name, value in conninfo_to_dict(url).items() if value is not None
        }
    except ProgrammingError:
        raise SettingError(
            "DCOPS_DATABASE_URL cannot be read. Write postgresql://user:password@host:5432/dcops."
        ) from None
    found = {key: parts.pop(name, "") for key, name in _DJANGO_NAMES.items()}
    pool = {"min_size": 1, "max_size": env_int("DCOPS_DATABASE_POOL", 8, 1), "timeout": 10}
    return found | {
        "ENGINE": "django.db.backends.postgresql",
        "CONN_MAX_AGE": 0,
        "ATOMIC_REQUESTS": False,
        "OPTIONS": {**parts, "pool": pool},
    }


_DJANGO_NAMES = {
    "NAME": "dbname",
    "USER": "user",
    "PASSWORD": "password",
    "HOST": "host",
    "PORT": "port",
}

DATABASE_URL = env_str("DCOPS_DATABASE_URL")
DATABASES = {"default": database(DATABASE_URL)}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# One Redis URL per role: Celery's user may run scripts, the live user may not (see dcops/local/redis.py).
CELERY_BROKER_URL = env_str("DCOPS_CELERY_URL", "")
LIVE_URL = env_str("DCOPS_LIVE_URL", "")
CHANNEL_LAYERS: dict[str, Any] = (
    {
        "default": {
            "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
            "CONFIG": {"hosts": [LIVE_URL], "prefix": "dcops-live"},
        }
    }
    if LIVE_URL
    else {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
)

AUTH_USER_MODEL = "access.User"
LOGIN_URL = "sign-in"
LOGIN_REDIRECT_URL = "overview"
LOGOUT_REDIRECT_URL = "sign-in"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.Argon2PasswordHasher"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {
        "NAME": "django.contrib.auth.password_validation.MinimumLengthValidator",
        "OPTIONS": {"min_length": 12},
    },
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
# Cookies ignore ports: without it in the name, two instances on one host would sign each other out.
_COOKIE = ("__Host-dcops_{}_" if SECURE_TRANSPORT else "dcops_{}_") + str(
    urlsplit(PUBLIC_URL).port or (443 if SECURE_TRANSPORT else 80)
)
SESSION_COOKIE_NAME = _COOKIE.format("session")
CSRF_COOKIE_NAME = _COOKIE.format("csrf")
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SECURE_TRANSPORT
SESSION_COOKIE_HTTPONLY = CSRF_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_AGE = 14 * 24 * 3600
SECURE_HSTS_SECONDS = 31_536_000 if SECURE_TRANSPORT else 0
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
SECURE_CROSS_ORIGIN_OPENER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
BEHIND_PROXY = env_bool("DCOPS_BEHIND_PROXY", False)
if BEHIND_PROXY:
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")

CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": ["'none'"],
        "script-src": ["'self'"],
        "style-src": ["'self'"],
        "img-src": ["'self'", "data:", "blob:"],
        "font-src": ["'self'"],
        "connect-src": ["'self'"],
        "form-action": ["'self'"],
        "frame-ancestors": ["'none'"],
        "base-uri": ["'none'"],
    }
}

LANGUAGE_CODE = "en"
LANGUAGES = [("en", _("English")), ("zh-hans", _("Simplified Chinese"))]
LOCALE_PATHS = [BASE_DIR / "dcops" / "locale"]
USE_I18N = True
USE_TZ = True
TIME_ZONE = env_str("DCOPS_TIME_ZONE", "UTC")

STATIC_URL = "static/"
STATIC_ROOT = Path(env_str("DCOPS_STATIC_ROOT", str(DATA_DIR / "static")))
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "dashboards.storage.StaticStorage"},
}

# Retention, in the unit of the name; None of these is applied before the data it drops was rolled up.
TELEMETRY = {
    "row_hours": env_int("DCOPS_ROW_HOURS", 2, 1),
    "raw_days": env_int("DCOPS_RAW_DAYS", 7, 1),
    "minute_days": env_int("DCOPS_MINUTE_DAYS", 90, 1),
    "hour_days": env_int("DCOPS_HOUR_DAYS", 1095, 1),
    "event_days": env_int("DCOPS_EVENT_DAYS", 1095, 1),
    # Metrics are refused, and events and audit still taken, above this database size or below this free share of disk.
    "disk_budget_bytes": env_int("DCOPS_DISK_BUDGET_GIB", 100, 1) << 30,
    "disk_free_min_percent": env_int("DCOPS_DISK_FREE_MIN_PERCENT", 5, 0),
    # A node whose last acknowledged batch is older than this is silent.
    "silent_after_s": env_int("DCOPS_SILENT_AFTER_S", 20, 5),
}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": env_str("DCOPS_LOG_LEVEL", "INFO")},
}
