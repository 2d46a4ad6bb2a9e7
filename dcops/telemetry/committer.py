"""Group commit: batches of all connections, gathered for a moment, are one transaction.

Memory is bounded: beyond MAX_BACKLOG_BYTES a connection waits and is not read, or hears BUSY while the database is away.
"""

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import NamedTuple, Protocol

import psycopg

from dcops.telemetry import meters
from dcops.telemetry.intake import Incoming
from dcops.telemetry.latest import PackedRows
from dcops.telemetry.writer import Outcome

logger = logging.getLogger(__name__)

GATHER_S = 0.025
MAX_GROUP_BYTES = 3 << 20
MAX_BACKLOG_BYTES = 12 << 20
RETRY_FIRST_S, RETRY_LONGEST_S = 0.2, 5.0
BUSY_RETRY_S = 5.0

Done = Callable[[Outcome], None]


class Writes(Protocol):
    """What commits a group; runs in a thread of its own."""

    events_stored: int

    def write(self, batches: Sequence[Incoming], now: datetime) -> list[Outcome]:
        """Commit, or raise psycopg.OperationalError with nothing committed."""

    def news(self) -> dict[int, PackedRows]:
        """The newest rows since the last call."""

    def close(self) -> None:
        """Let the connection go."""


class _Waiting(NamedTuple):
    incoming: Incoming
    done: Done


class Committer:
    """One per process. `run` is its loop; `submit` hands it a batch."""

    def __init__(self, writer: Writes, clock: Callable[[], datetime]) -> None:
        self._writer = writer
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, "ingest-writer")
        self._waiting: deque[_Waiting] = deque()
        self._bytes = 0
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self.away = False

    async def submit(self, incoming: Incoming, done: Done) -> bool:
        """Queue a batch; `done` is called in the loop once it is committed. False: no room while the database is away."""
        while self._bytes and self._bytes + incoming.size > MAX_BACKLOG_BYTES:
            if self.away:
                return False
            self._room.clear()
            await self._room.wait()
        self._bytes += incoming.size
        self._waiting.append(_Waiting(incoming, done))
        self._arrived.set()
        return True

    async def run(self) -> None:
        """Commit groups until cancelled."""
        while True:
            await self._arrived.wait()
            await asyncio.sleep(GATHER_S)
            group = self._take()
            outcomes = await self._commit([waiting.incoming for waiting in group])
            for waiting, outcome in zip(group, outcomes, strict=True):
                waiting.done(outcome)

    async def news(self) -> tuple[dict[int, PackedRows], int]:
        """The newest rows since the last call, and the number of events stored so far."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._thread, self._writer.news
        ), self._writer.events_stored

    async def close(self) -> None:
        """Wait for a commit under way and let the connection go."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._writer.close)
        self._thread.shutdown(wait=False)

    def _take(self) -> list[_Waiting]:
        group: list[_Waiting] = []
        size = 0
        while self._waiting and (
            not group or size + self._waiting[0].incoming.size <= MAX_GROUP_BYTES
        ):
            waiting = self._waiting.popleft()
            group.append(waiting)
            size += waiting.incoming.size
        if not self._waiting:
            self._arrived.clear()
        return group

    async def _commit(self, batches: list[Incoming]) -> list[Outcome]:
        """Commit, however long the database is away; nothing is acknowledged before."""
        loop = asyncio.get_running_loop()
        pause = RETRY_FIRST_S
        meters.BACKLOG_BYTES.set(self._bytes)
        while True:
            started = time.perf_counter()
            try:
                outcomes = await loop.run_in_executor(
                    self._thread, self._writer.write, batches, self._clock()
                )
            except psycopg.OperationalError as error:
                logger.warning(
                    "a group of %d batches waits for the database: %s",
                    len(batches),
                    str(error).strip(),
                )
                self._set_away(True)
                await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311
                pause = min(2 * pause, RETRY_LONGEST_S)
                continue
            self._set_away(False)
            meters.COMMIT_SECONDS.observe(time.perf_counter() - started)
            self._count(batches, outcomes)
            return outcomes

    def _set_away(self, away: bool) -> None:
        self.away = away
        meters.DATABASE_AWAY.set(away)
        if away:
            # Who waits for room learns that it may take long.
            self._room.set()

    def _count(self, batches: list[Incoming], outcomes: list[Outcome]) -> None:
        size = sum(batch.size for batch in batches)
        self._bytes -= size
        self._room.set()
        meters.BYTES.inc(size)
        meters.BATCHES.inc(len(batches))
        meters.GROUP_BATCHES.observe(len(batches))
        meters.ROWS.inc(sum(o.rows_stored for o in outcomes))
        meters.VALUES.inc(sum(o.values_stored for o in outcomes))
        meters.REJECTED.inc(sum(o.values_rejected for o in outcomes))
        meters.REPEATED.inc(sum(o.records_repeated for o in outcomes))
        meters.QUARANTINED.inc(sum(o.records_quarantined for o in outcomes))
