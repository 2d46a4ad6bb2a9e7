"""Celery entry points of telemetry. Each may run twice or never."""

from django.conf import settings

from dcops import clock
from dcops.celery import app
from dcops.telemetry import actions, packing


@app.task(name="telemetry.keep_partitions")
def keep_partitions() -> None:
    """Make the partitions of the next hours, days and months."""
    actions.keep_partitions(clock.now(), settings.TELEMETRY["row_hours"])


@app.task(name="telemetry.roll_up")
def roll_up() -> None:
    """Recompute the rollups that are out of date."""
    actions.roll_up(clock.now())


@app.task(name="telemetry.pack")
def pack() -> None:
    """Turn old hours of rows into chunks."""
    packing.pack(clock.now(), settings.TELEMETRY["row_hours"])


@app.task(name="telemetry.apply_retention")
def apply_retention() -> None:
    """Drop what is older than its tier keeps."""
    actions.apply_retention(clock.now(), settings.TELEMETRY)


@app.task(name="telemetry.note_silent_nodes")
def note_silent_nodes() -> None:
    """Write an event for each node that fell silent."""
    actions.note_silent_nodes(clock.now(), settings.TELEMETRY["silent_after_s"])
