"""Live sockets of the browser: one per tab, a snapshot and then a numbered update a second.

The hub computes each panel once a second for all its viewers and hands every viewer the same bytes. A viewer holds only the
newest frame: who reads slowly skips numbers and asks for a new snapshot, and never makes the server queue.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from http.cookies import CookieError, SimpleCookie
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec
from django.conf import settings
from django.db import connections
from django.http.request import validate_host

from dashboards.frames import PanelKey, state
from dashboards.frames import frame_bytes as make_frame
from dashboards.live_state import FleetView
from dcops import clock
from dcops.access.actor import Action, Actor, can
from dcops.access.queries import actor_of_session
from dcops.domain.errors import Refused
from dcops.live import SamplesStored, listen

logger = logging.getLogger(__name__)

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Result = TypeVar("Result")

TICK_S = 1.0
# News of ingest come every second, too; ticking a little faster than they do lets the tick follow them.
SHORTEST_TICK = 0.85
CLOSE_WITHIN_S = 5.0
RECHECK_S = 3.0
MAX_MESSAGE = 2048
SIGNED_OUT = 4401
POLICY = 1008
PATH = "/live/socket"


class Ask(msgspec.Struct):
    """What a browser may send: subscribe to a panel, or resync the one it has."""

    type: str
    panel: str = ""
    metric: str = ""
    node: str = ""
    gpu: str = ""


_asks = msgspec.json.Decoder(Ask)
_pool = ThreadPoolExecutor(max_workers=3, thread_name_prefix="live")


async def in_thread(work: Callable[[], Result]) -> Result:
    """Run blocking work beside the event loop and give its database connection back."""

    def run() -> Result:
        try:
            return work()
        finally:
            connections.close_all()

    return await asyncio.get_running_loop().run_in_executor(_pool, run)


@dataclass(eq=False)
class Viewer:
    """One socket: the panel it watches, and what waits to be sent: a snapshot at most, then one update at most."""

    language: str
    key: PanelKey | None = None
    snapshot: bytes | None = None
    update: bytes | None = None
    wake: asyncio.Event = field(default_factory=asyncio.Event)

    def start(self, snapshot: bytes) -> None:
        """Begin anew from a snapshot: an update that waits belongs to what was before."""
        self.snapshot, self.update = snapshot, None
        self.wake.set()

    def offer(self, update: bytes) -> None:
        """Replace the update that waits."""
        self.update = update
        self.wake.set()

    def take(self) -> list[bytes]:
        """Take what waits, in order."""
        waiting = [frame for frame in (self.snapshot, self.update) if frame is not None]
        self.snapshot = self.update = None
        self.wake.clear()
        return waiting


@dataclass
class Watched:
    """A panel somebody watches: its number, and its snapshot at that number once somebody asked for one."""

    seq: int = 0
    viewers: set[Viewer] = field(default_factory=set)
    snapshot: bytes | None = None


class Hub:
    """All viewers of this process. Runs from the first viewer on, so that trends grow also while nobody looks."""

    def __init__(self) -> None:
        self.watched: dict[PanelKey, Watched] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._news = asyncio.Event()

    def start(self) -> None:
        """Start feeding and ticking on the running loop, once."""
        if not self._tasks or any(task.done() for task in self._tasks):
            self._tasks = [asyncio.create_task(self._feed()), asyncio.create_task(self._tick())]

    async def _feed(self) -> None:
        while True:
            try:
                async for event in listen():
                    await in_thread(partial(state().apply, event))
                    if isinstance(event, SamplesStored):
                        self._news.set()
            except Exception as error:  # noqa: BLE001 - the layer is away; the state reads the database meanwhile
                logger.warning("live events are not heard, trying again: %s", error)
                await asyncio.sleep(1.0)

    async def _tick(self) -> None:
        while True:
            await self._until_due()
            try:
                await self._send_all(await in_thread(lambda: state().view(clock.now())))
            except Exception:
                logger.exception("a live update failed, the next one follows")

    async def _until_due(self) -> None:
        """Wait a second, or a little less if news came: then it is shown at once instead of a second later."""
        self._news.clear()
        await asyncio.sleep(SHORTEST_TICK * TICK_S)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), (1 - SHORTEST_TICK) * TICK_S)

    async def _send_all(self, view: FleetView) -> None:
        for key, watched in list(self.watched.items()):
            watched.seq += 1
            watched.snapshot = None
            frame = await in_thread(partial(make_frame, key, view, "update", watched.seq))
            for viewer in watched.viewers:
                viewer.offer(frame)

    async def subscribe(self, viewer: Viewer, key: PanelKey) -> None:
        """Move a viewer to a panel and offer it the snapshot. Raises Refused for a panel that does not exist."""
        watched = self.watched.get(key) or Watched()
        snapshot = watched.snapshot
        if snapshot is None:
            seq = watched.seq
            snapshot = await in_thread(
                lambda: make_frame(key, state().view(clock.now()), "snapshot", seq)
            )
            watched.snapshot = snapshot if watched.seq == seq else None
        self.leave(viewer)
        viewer.key = key
        self.watched.setdefault(key, watched).viewers.add(viewer)
        viewer.start(snapshot)

    def leave(self, viewer: Viewer) -> None:
        """Forget a viewer; a panel without viewers is computed no more."""
        watched = self.watched.get(viewer.key) if viewer.key else None
        if watched is None or viewer.key is None:
            return
        watched.viewers.discard(viewer)
        if not watched.viewers:
            del self.watched[viewer.key]


hub = Hub()


def header(scope: Message, name: bytes) -> str:
    """First value of a request header, or nothing."""
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), "")


def is_own_origin(scope: Message) -> bool:
    """Whether the page that opens this socket came from here. A browser always sends Origin; others have no session."""
    host, origin = header(scope, b"host"), header(scope, b"origin")
    name = urlsplit(f"//{host}").hostname or ""
    return validate_host(name, settings.ALLOWED_HOSTS) and urlsplit(origin).netloc == host


def cookies(scope: Message) -> dict[str, str]:
    """The request's cookies; broken ones count as none."""
    jar: SimpleCookie = SimpleCookie()
    with contextlib.suppress(CookieError):
        jar.load(header(scope, b"cookie"))
    return {name: morsel.value for name, morsel in jar.items()}


def language_of(found: dict[str, str]) -> str:
    """The language this browser chose, as the pages find it."""
    chosen = found.get(settings.LANGUAGE_COOKIE_NAME, settings.LANGUAGE_CODE)
    return chosen if chosen in dict(settings.LANGUAGES) else settings.LANGUAGE_CODE


async def viewer_actor(session_key: str | None) -> Actor | None:
    """Who holds the session now, if they may look."""
    actor = await in_thread(lambda: actor_of_session(session_key))
    return actor if actor is not None and can(actor, Action.VIEW) else None


async def live_application(scope: Message, receive: Receive, send: Send) -> None:
    """The ASGI application of /live/socket."""
    await receive()  # websocket.connect
    if scope["path"] != PATH or not is_own_origin(scope):
        await send({"type": "websocket.close", "code": POLICY})
        return
    found = cookies(scope)
    session_key = found.get(settings.SESSION_COOKIE_NAME)
    await send({"type": "websocket.accept"})
    if await viewer_actor(session_key) is None:
        await send({"type": "websocket.close", "code": SIGNED_OUT})
        return
    hub.start()
    viewer = Viewer(language_of(found))
    try:
        await _serve(viewer, session_key, receive, send)
    finally:
        hub.leave(viewer)


async def _serve(viewer: Viewer, session_key: str | None, receive: Receive, send: Send) -> None:
    """Run the three sides of a socket until one ends, then say why, if the browser is still there."""
    sides = [
        asyncio.create_task(_hear(viewer, receive)),
        asyncio.create_task(_tell(viewer, send)),
        asyncio.create_task(_recheck(session_key)),
    ]
    try:
        done, _ = await asyncio.wait(sides, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for side in sides:
            side.cancel()
        await asyncio.gather(*sides, return_exceptions=True)
        hub.leave(viewer)
    code = next((side.result() for side in done if not side.exception() and side.result()), None)
    if code is not None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(send({"type": "websocket.close", "code": code}), CLOSE_WITHIN_S)


async def _hear(viewer: Viewer, receive: Receive) -> int | None:
    """Follow what the browser asks for. Returns a close code, or None when it left."""
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            return None
        text = message.get("text") or ""
        if len(text) > MAX_MESSAGE:
            return POLICY
        try:
            await _answer(viewer, _asks.decode(text))
        except (msgspec.DecodeError, Refused) as error:
            viewer.offer(msgspec.json.encode({"type": "error", "message": str(error)}))


async def _answer(viewer: Viewer, ask: Ask) -> None:
    if ask.type == "resync" and viewer.key is not None:
        await hub.subscribe(viewer, viewer.key)
    elif ask.type == "subscribe":
        await hub.subscribe(
            viewer, PanelKey(ask.panel, ask.gpu or ask.node, ask.metric, viewer.language)
        )


async def _tell(viewer: Viewer, send: Send) -> None:
    while True:
        await viewer.wake.wait()
        for frame in viewer.take():
            await send({"type": "websocket.send", "text": frame.decode()})


async def _recheck(session_key: str | None) -> int:
    """Return once the session no longer lets one look: signed out, disabled, password changed."""
    while True:
        await asyncio.sleep(RECHECK_S)
        if await viewer_actor(session_key) is None:
            return SIGNED_OUT
