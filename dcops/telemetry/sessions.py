"""Who holds a node's link: the newest connection wins, in whatever process, and two machines that take turns are found out."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec
from django.db import connection, transaction

from dcops.telemetry import store

LIVE_FOR = timedelta(seconds=20)
TURNS_WITHIN_S = 600.0
TURNS_KEPT = 8
MANY_TURNS, MANY_WITHIN_S = 4, 120.0


class Turn(msgspec.Struct, array_like=True, frozen=True):
    """A connection that took over from one that was alive."""

    boot_id: str
    at_s: float


@dataclass(frozen=True, slots=True)
class Claim:
    """What came of opening a link."""

    cloned: bool
    took_over: bool


def is_clone(turns: Sequence[Turn]) -> bool:
    """Whether these takeovers, oldest first, need two machines.

    A boot id that comes back after another one cannot be one machine's: a boot never returns. Machines of equal boot id
    (two copies on one kernel) give themselves away by taking turns often.
    """
    boots = [turn.boot_id for turn in turns]
    for first, middle, last in zip(boots, boots[1:], boots[2:], strict=False):
        if first == last != middle:
            return True
    return len(turns) >= MANY_TURNS and turns[-1].at_s - turns[-MANY_TURNS].at_s <= MANY_WITHIN_S


def next_turns(turns: Sequence[Turn], holder: Turn, newcomer: Turn) -> list[Turn]:
    """Remember that `newcomer` took over from `holder`, who was alive."""
    recent = [turn for turn in turns if newcomer.at_s - turn.at_s <= TURNS_WITHIN_S]
    return [*(recent or [holder]), newcomer][-TURNS_KEPT:]


def claim(node_id: int, session: str, boot_id: str, now: datetime) -> Claim:
    """Make this session the holder of the node's link."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            store.named("open_link"),
            {"node_id": node_id, "session": session, "boot_id": boot_id, "now": now},
        )
        if cursor.fetchone() is not None:
            return Claim(cloned=False, took_over=False)
        cursor.execute(
            "SELECT boot_id, connected_at, alive_at, takeovers FROM telemetry_link WHERE node_id = %s FOR UPDATE",
            (node_id,),
        )
        held_boot, connected_at, alive_at, stored = cursor.fetchone()
        turns = msgspec.json.decode(stored, type=list[Turn])
        took_over = now - alive_at < LIVE_FOR
        if took_over:
            turns = next_turns(
                turns, Turn(held_boot, connected_at.timestamp()), Turn(boot_id, now.timestamp())
            )
        cloned = took_over and is_clone(turns)
        cursor.execute(
            "UPDATE telemetry_link SET session = %s, boot_id = %s, connected_at = %s, alive_at = %s, takeovers = %s WHERE node_id = %s",
            (
                session,
                boot_id,
                now,
                now,
                "[]" if cloned else msgspec.json.encode(turns).decode(),
                node_id,
            ),
        )
        return Claim(cloned, took_over)


def release(node_id: int, session: str, now: datetime) -> None:
    """The connection ended: whoever comes next takes over from nobody."""
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE telemetry_link SET alive_at = %s WHERE node_id = %s AND session = %s",
            (now - LIVE_FOR, node_id, session),
        )


def keep_alive(held: Iterable[tuple[int, str]], now: datetime) -> None:
    """Say that these (node id, session) are connected."""
    sessions = sorted(held)
    with connection.cursor() as cursor:
        cursor.execute(
            store.named("keep_links"),
            {"ids": [n for n, _ in sessions], "sessions": [s for _, s in sessions], "now": now},
        )


def ended(held: Iterable[tuple[int, str]]) -> dict[int, str]:
    """Of these (node id, session): those that another session replaced, or whose node is revoked, and which of the two."""
    sessions = list(held)
    with connection.cursor() as cursor:
        cursor.execute(
            store.named("ended_links"),
            {"ids": [n for n, _ in sessions], "sessions": [s for _, s in sessions]},
        )
        return dict(cursor.fetchall())
