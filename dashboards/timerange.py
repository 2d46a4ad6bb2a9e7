"""The time range of a page, kept in its URL: ?range=1h follows now, ?from=…&to=… stands still. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from urllib.parse import urlencode


class Preset(NamedTuple):
    """A range that ends now."""

    key: str
    span: timedelta


PRESETS = (
    Preset("15m", timedelta(minutes=15)),
    Preset("1h", timedelta(hours=1)),
    Preset("6h", timedelta(hours=6)),
    Preset("24h", timedelta(hours=24)),
    Preset("7d", timedelta(days=7)),
    Preset("30d", timedelta(days=30)),
)
DEFAULT = PRESETS[0]
LONGEST = timedelta(days=366 * 3)
_BY_KEY = {preset.key: preset for preset in PRESETS}


class BadRange(ValueError):
    """The range cannot be used; the message says what to write."""


@dataclass(frozen=True, slots=True)
class TimeRange:
    """From `start` to `end`. `key` names the preset it follows, empty for fixed ends."""

    start: datetime
    end: datetime
    key: str

    @property
    def query(self) -> str:
        """The range as the query string that reads back as the same range."""
        if self.key:
            return urlencode({"range": self.key})
        return urlencode({"from": self.start.isoformat(), "to": self.end.isoformat()})


def parse(params: Mapping[str, str], now: datetime) -> TimeRange:
    """Read a range from a query string; without one, the last 15 minutes. Raises BadRange."""
    start, end = params.get("from", ""), params.get("to", "")
    if start or end:
        return _fixed(start, end, now)
    preset = _BY_KEY.get(params.get("range", DEFAULT.key))
    if preset is None:
        raise BadRange(
            f"A range is one of {', '.join(_BY_KEY)}, or from= and to= as 2026-01-31T14:00."
        )
    return TimeRange(now - preset.span, now, preset.key)


def _fixed(start: str, end: str, now: datetime) -> TimeRange:
    ends = _moment(end) if end else now
    starts = _moment(start) if start else ends - DEFAULT.span
    if not timedelta(0) < ends - starts <= LONGEST:
        raise BadRange("The range must end after it starts and span three years at most.")
    return TimeRange(starts, ends, "")


def _moment(text: str) -> datetime:
    """ISO 8601, UTC unless it names a zone. A `+` that a URL turned into a blank is forgiven."""
    try:
        moment = datetime.fromisoformat(
            text.strip().replace(" ", "+") if "T" in text else text.strip()
        )
    except ValueError:
        raise BadRange(
            f"{text[:40]!r} is not a time. Write it as 2026-01-31T14:00 (UTC)."
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
