"""The agents' side of the server: a bare ASGI application for /agent/, beside Django and not through it.

Routes: the WebSocket of a node (link.py), the identity document, joining. The lifespan starts the committer and the few
loops of the process, and refuses a database that could lose what was acknowledged.
"""

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs

import msgspec
from django.conf import settings

from dcops import live
from dcops.access import serverkey
from dcops.clock import now as clock_now
from dcops.domain.errors import Refused
from dcops.fleet import actions as fleet_actions
from dcops.fleet import enrol
from dcops.fleet.errors import JoinRefused
from dcops.telemetry import actions, meters, queries, sessions, store
from dcops.telemetry.committer import Committer
from dcops.telemetry.durability import weaknesses
from dcops.telemetry.link import Link, RefusedLink, Shared, replaced, revoked
from dcops.telemetry.writer import Limits, Writer
from dcops.wire import frames
from dcops.wire.frames import RefusalCode
from dcops.wire.identity import JoinRequest

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 16 << 10
MAX_LINKS = 20_000
MAX_STRANGERS = 256
PUBLISH_EVERY_S = 1.0
WATCH_EVERY_S = 2.0
ALIVE_EVERY_S = 8.0
DISK_EVERY_S = 30.0

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class Ingest:
    """The application and what it runs."""

    def __init__(self) -> None:
        self._shared: Shared | None = None
        self._loops: list[asyncio.Task[None]] = []
        self._strangers = 0
        self._process = uuid.uuid4().hex[:12]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI scope."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)

    # -- life

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                try:
                    await self.start()
                except Exception as error:  # noqa: BLE001 - whatever it is, the server must not come up
                    await send({"type": "lifespan.startup.failed", "message": str(error)})
                    return
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                await self.stop()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def start(self) -> None:
        """Check the database and start the loops. Raises RuntimeError with a sentence, OSError, psycopg.Error."""
        await asyncio.to_thread(_check_database)
        telemetry = settings.TELEMETRY
        limits = Limits(telemetry["row_hours"], telemetry["raw_days"], telemetry["event_days"])
        committer = Committer(Writer(limits), clock_now)
        key = await asyncio.to_thread(serverkey.load, settings.SERVER_KEY_FILE)
        self._shared = Shared(committer, key, clock_now)
        works = (committer.run, self._publish, self._watch, self._keep_alive, self._guard_disk)
        self._loops = [asyncio.create_task(_for_ever(work)) for work in works]

    async def stop(self) -> None:
        """End the loops and the links; what was not acknowledged will come again."""
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        self._loops = []
        if self._shared is not None:
            shared, self._shared = self._shared, None
            await shared.committer.close()
            shared.threads.shutdown(wait=False)

    async def _publish(self) -> None:
        """Once a second, tell the live pages the newest rows."""
        shared = self._running()
        seq = told = 0
        while True:
            await asyncio.sleep(PUBLISH_EVERY_S)
            tables, events = await shared.committer.news()
            if tables:
                seq += 1
                await live.publish(live.SamplesStored(self._process, seq, tables))
            if events != told:
                await live.publish(live.EventsStored(events - told))
                told = events

    async def _watch(self) -> None:
        """End the links that another process replaced or whose node was revoked."""
        shared = self._running()
        while True:
            await asyncio.sleep(WATCH_EVERY_S)
            held = [(node_id, link.session) for node_id, link in shared.links.items()]
            if not held:
                continue
            for node_id, why in (await shared.in_database(sessions.ended, held)).items():
                link = shared.links.get(node_id)
                if link is not None and (node_id, link.session) in held:
                    await link.replace(revoked() if why == "revoked" else replaced())

    async def _keep_alive(self) -> None:
        shared = self._running()
        started = clock_now()
        while True:
            now = clock_now()
            await shared.in_database(actions.note_ingest, self._process, started, now)
            await asyncio.sleep(ALIVE_EVERY_S)
            held = [(node_id, link.session) for node_id, link in shared.links.items()]
            if held:
                now = clock_now()
                await shared.in_database(sessions.keep_alive, held, now)
                await shared.in_database(
                    fleet_actions.note_alive, [node_id for node_id, _ in held], now
                )

    async def _guard_disk(self) -> None:
        """Refuse metrics before the disk is full, so that events, jobs and the audit trail still find room."""
        shared = self._running()
        while True:
            shared.disk_full = await shared.in_database(queries.disk_is_full)
            meters.DISK_REFUSING.set(shared.disk_full)
            await asyncio.sleep(DISK_EVERY_S)

    def _running(self) -> Shared:
        if self._shared is None:
            raise RuntimeError("ingest has not started: the server must run the ASGI lifespan")
        return self._shared

    # -- the link

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()  # websocket.connect
        shared = self._shared
        full = self._strangers >= MAX_STRANGERS or (
            shared is not None and len(shared.links) >= MAX_LINKS
        )
        # A browser sends Origin; an agent never does.
        if (
            shared is None
            or full
            or scope["path"] != frames.LINK_PATH
            or _header(scope, b"origin") is not None
        ):
            await send({"type": "websocket.close", "code": 1013 if full else 1008})
            return
        await send({"type": "websocket.accept"})
        link = Link(shared, receive, send)
        self._strangers += 1
        counted = [link]

        def met() -> None:
            if counted:
                counted.clear()
                self._strangers -= 1

        try:
            await link.run(met)
        finally:
            met()

    # -- plain requests

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = (scope["method"], scope["path"])
        try:
            if route == ("GET", frames.IDENTITY_PATH):
                status, body = await self._identity(scope)
            elif route == ("POST", frames.JOIN_PATH):
                status, body = await self._join(scope, await _read_body(receive))
            else:
                status, body = 404, _error("not_found", "There is nothing here.")
        except RefusedLink as error:
            status, body = 503, _error(error.refusal.code, error.refusal.message)
        await _answer(send, status, body)

    async def _identity(self, scope: Scope) -> tuple[int, bytes]:
        values = parse_qs(scope["query_string"].decode("latin-1")).get("nonce", [""])
        try:
            nonce = bytes.fromhex(values[0])
            ca_pem = await asyncio.to_thread(_ca_pem)
            document = enrol.identity_document(self._running().key, nonce, ca_pem)
        except ValueError:
            return 422, _error(RefusalCode.MALFORMED, "The nonce must be 32 bytes in hexadecimal.")
        return 200, msgspec.json.encode(document)

    async def _join(self, scope: Scope, body: bytes | None) -> tuple[int, bytes]:
        if body is None:
            return 413, _error(
                RefusalCode.TOO_LARGE, f"A join request has at most {MAX_BODY_BYTES} bytes."
            )
        try:
            request = msgspec.json.decode(body, type=JoinRequest)
        except (msgspec.DecodeError, RecursionError):
            return 422, _error(
                RefusalCode.MALFORMED, "This is no join request. Upgrade the agent."
            )
        source_ip = str((scope.get("client") or ("", 0))[0])
        try:
            answer = await self._running().in_database(_join_node, request, source_ip)
        except JoinRefused as error:
            return (503 if error.code == RefusalCode.BUSY else 403), _error(
                error.code, error.message
            )
        except Refused as error:
            return 422, _error(error.code, error.message)
        return 200, msgspec.json.encode(answer)


async def _for_ever(work: Callable[[], Awaitable[None]]) -> None:
    """Run a loop of the process; should it fail, say so and start it again."""
    while True:
        try:
            await work()
        except RefusedLink as error:
            logger.warning("%s: %s", work.__name__, error)
        except Exception:
            logger.exception("%s failed and is started again", work.__name__)
        await asyncio.sleep(1.0)


def _check_database() -> None:
    with store.connect("dcops-ingest-check") as connection:

        def setting(name: str) -> str:
            row = connection.execute("SELECT current_setting(%s)", (name,)).fetchone()
            return str(row[0]) if row else ""

        found = weaknesses(setting)
    if found:
        raise RuntimeError(" ".join(found))


def _ca_pem() -> str:
    return settings.CA_FILE.read_text() if settings.CA_FILE else ""


def _join_node(request: JoinRequest, source_ip: str) -> Any:
    return fleet_actions.join_node(request, source_ip=source_ip, now=clock_now())


def _header(scope: Scope, wanted: bytes) -> bytes | None:
    return next((value for name, value in scope["headers"] if name == wanted), None)


def _error(code: str, message: str) -> bytes:
    return msgspec.json.encode({"code": str(code), "message": message})


async def _read_body(receive: Receive) -> bytes | None:
    """Return the body, or None if it is too large."""
    body: bytes = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            return None
        if not message.get("more_body"):
            return body


async def _answer(send: Send, status: int, body: bytes) -> None:
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
    ]
    if status == 503:
        headers.append((b"retry-after", b"5"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


ingest_application = Ingest()
