"""The only place of the server that reads the time. Entry points call it and pass `now` in."""

from datetime import UTC, datetime


def now() -> datetime:
    """Return the current time, aware, in UTC."""
    return datetime.now(tz=UTC)
