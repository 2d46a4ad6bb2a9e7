"""Each happening once: the same XID is seen by the driver's event set and in the kernel log, and may come in storms. Pure."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from dcops.domain.xid import xid_severity, xid_title
from dcops.wire.frames import Event, Severity

# Within this time of the first sighting, the same key is the same happening or its repetition.
WINDOW_US = 10_000_000
# A storm of different keys is bounded too; more than this are open at once only on a machine that is breaking.
OPEN_MAX = 1000

_BUS_ID = re.compile(r"(?:([0-9a-f]+):)?([0-9a-f]{1,2}):([0-9a-f]{1,2})", re.IGNORECASE)


def short_bus_id(text: str) -> str:
    """`00000000:9B:00.0` as NVML says and `0000:9b:00` as the kernel does are both 0000:9b:00; "" if it is none."""
    match = _BUS_ID.match(text)
    if match is None:
        return ""
    domain, bus, device = (int(part or "0", 16) for part in match.groups())
    return f"{domain:04x}:{bus:02x}:{device:02x}"


def xid_event(
    at_us: int, bus_id: str, code: int, *, gpu_uuid: str, source: str, detail: str = ""
) -> Event:
    """Return the event of one XID, under the same key whoever saw it."""
    message = f"{xid_title(code)} ({detail})" if detail else xid_title(code)
    key = f"xid:{short_bus_id(bus_id)}:{code}"
    return Event(at_us, "xid", Severity(xid_severity(code)), message, key, code, gpu_uuid, source)


@dataclass
class _Open:
    first: Event
    seen: dict[str, int] = field(default_factory=dict)  # source -> times, the first included


class Ledger:
    """Lets the first sighting of a happening through, and says at the end of its window how often it came again.

    Events go in with a key that names what happened where; they come out with the time of the first sighting added,
    so that the same key never stands for two happenings.
    """

    def __init__(self) -> None:
        self._open: dict[str, _Open] = {}

    def admit(self, events: Sequence[Event], uuid_by_bus_id: Mapping[str, str]) -> list[Event]:
        """Return those events that are news, in order. `uuid_by_bus_id` has short bus ids."""
        return [
            news for event in events if (news := self._admit(event, uuid_by_bus_id)) is not None
        ]

    def close(self, now_us: int) -> list[Event]:
        """Return a summary for each window that has ended with repetitions, and forget those windows."""
        ended = [
            key for key, entry in self._open.items() if now_us - entry.first.at_us > WINDOW_US
        ]
        if len(self._open) > OPEN_MAX:
            ended = list(self._open)
        summaries = [_summary(self._open.pop(key)) for key in ended]
        return [summary for summary in summaries if summary is not None]

    def _admit(self, event: Event, uuid_by_bus_id: Mapping[str, str]) -> Event | None:
        entry = self._open.get(event.key)
        if entry is not None and abs(event.at_us - entry.first.at_us) <= WINDOW_US:
            entry.seen[event.source] = entry.seen.get(event.source, 0) + 1
            return None
        uuid = event.gpu_uuid
        if not uuid and event.kind == "xid":
            uuid = uuid_by_bus_id.get(event.key.removeprefix("xid:").rpartition(":")[0], "")
        first = msgspec.structs.replace(
            event, key=f"{event.key}:{event.at_us // 1_000_000}", gpu_uuid=uuid
        )
        self._open[event.key] = _Open(first, {event.source: 1})
        return first


def _summary(entry: _Open) -> Event | None:
    again = max(entry.seen.values()) - 1
    if again < 1:
        return None
    first = entry.first
    return msgspec.structs.replace(
        first,
        message=f"{first.message}: {again} more in {WINDOW_US // 1_000_000} s",
        key=f"{first.key}:again",
    )
