"""Celery entry points of access control."""

from dcops import clock
from dcops.access import actions
from dcops.celery import app


@app.task(name="access.forget_expired")
def forget_expired() -> None:
    """Remove sessions and throttles that are over."""
    actions.forget_expired(now=clock.now())
