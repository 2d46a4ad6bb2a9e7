"""The link over one outbound WebSocket. The protocol itself is agents.link; here are the socket, the clock and the wakes."""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from random import Random, SystemRandom

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from agents.adapters.address import AddressError, parse_address, trusting
from agents.adapters.keys import Identity, IdentityError, load_identity, load_key, verify
from agents.link import Journals, Link, Peer, Stop
from dcops.wire.frames import LINK_PATH, MAX_FRAME_BYTES, GpuList, Inventory, NodeState

log = logging.getLogger(__name__)

CONNECT_S = 15.0
PING_S = 20.0
SPOOL_RETRY_S = 5.0
SKEW_S = 5.0
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """The kernel's name for this boot; empty where there is none."""
    with suppress(OSError):
        return _BOOT_ID.read_text().strip()
    return ""


class Uplink:
    """Stays connected to the server that this node joined. One asyncio loop, one thread."""

    def __init__(
        self,
        identity: Identity,
        journals: Journals,
        *,
        sign: Callable[[bytes], bytes],
        agent_version: str,
        gpu_lists: Callable[[], Iterable[GpuList]] = tuple,
        simulated: bool = False,
        clock: Callable[[], float] = time.monotonic,
        jitter: Random | None = None,
    ) -> None:
        """Raises IdentityError if the identity does not say how to reach its server."""
        try:
            address = parse_address(identity.server)
            self._tls = trusting(identity.ca_pem) if address.secure else None
            key = identity.server_public_key
        except (AddressError, ValueError) as error:
            raise IdentityError(f"{error} (in the node's identity.json)") from error
        self._url = address.websocket_url + LINK_PATH
        self._clock = clock
        self._wake = asyncio.Event()
        self._logged = ""
        peer = Peer(identity.node_id, key, boot_id(), agent_version, simulated)
        self.link = Link(
            peer,
            journals,
            sign=sign,
            verify=verify,
            random_bytes=os.urandom,
            jitter=jitter or SystemRandom(),
            gpu_lists=gpu_lists,
        )

    @classmethod
    def of_state_dir(
        cls,
        state_dir: Path,
        journals: Journals,
        *,
        agent_version: str,
        gpu_lists: Callable[[], Iterable[GpuList]] = tuple,
        simulated: bool = False,
    ) -> "Uplink":
        """The uplink of the node that joined with this state folder. Raises IdentityError."""
        identity = load_identity(state_dir)
        if identity is None:
            raise IdentityError(
                f"This node has not joined a server (nothing in {state_dir}). "
                "Run: dcops-agent join --server URL --token TOKEN"
            )
        return cls(
            identity,
            journals,
            sign=load_key(state_dir).sign,
            agent_version=agent_version,
            gpu_lists=gpu_lists,
            simulated=simulated,
        )

    # --- ports.Link

    def wake(self) -> None:
        """Something was appended to a journal."""
        self._wake.set()

    def set_inventory(self, inventory: Inventory) -> None:
        """Send this inventory now, and again after each reconnection."""
        self.link.inventory = inventory
        self._wake.set()

    def set_state(self, state: NodeState) -> None:
        """Send this state now, and again after each reconnection."""
        self.link.state = state
        self._wake.set()

    @property
    def intervals_s(self) -> Mapping[str, float]:
        """Seconds between samples that the server wishes for, by table name."""
        return self.link.welcome.intervals_s if self.link.welcome else {}

    async def run(self) -> None:
        """Stay connected until cancelled."""
        while True:
            reason = await self._connect_once()
            wait_s = self.link.closed(self._clock(), reason)
            self._log_trouble(wait_s)
            await asyncio.sleep(wait_s)

    # --- one connection

    async def _connect_once(self) -> str:
        """Connect, talk until it ends, and return why it ended."""
        try:
            async with connect(
                self._url,
                ssl=self._tls,
                compression=None,
                proxy=None,
                max_size=MAX_FRAME_BYTES,
                open_timeout=CONNECT_S,
                ping_interval=PING_S,
                ping_timeout=PING_S,
                close_timeout=2,
                user_agent_header=None,
            ) as socket:
                return await self._talk(socket)
        except (OSError, WebSocketException, EOFError) as error:
            return f"{type(error).__name__}: {error}"

    async def _talk(self, socket: ClientConnection) -> str:
        self.link.opened(self._clock())
        listening = asyncio.create_task(self._listen(socket))
        try:
            while not listening.done():
                stop = await self._send_all(socket)
                if stop is not None:
                    await socket.close()
                    return stop
                await self._pause(listening)
            return await listening
        finally:
            listening.cancel()
            with suppress(asyncio.CancelledError, WebSocketException):
                await listening

    async def _listen(self, socket: ClientConnection) -> str:
        try:
            async for message in socket:
                data = message if isinstance(message, bytes) else message.encode()
                was_open = self.link.is_open
                self.link.received(data, self._clock())
                if self.link.is_open and not was_open:
                    self._log_welcome()
                self._wake.set()
        except WebSocketException as error:
            return f"The connection was lost: {error}"
        finally:
            self._wake.set()
        return (
            f"The server closed the connection ({socket.close_code} {socket.close_reason or ''})."
        )

    async def _send_all(self, socket: ClientConnection) -> str | None:
        """Send what is to be sent now. Returns why the connection must end, if it must."""
        self._wake.clear()
        while True:
            try:
                output = self.link.next_output(self._clock())
            except OSError as error:
                log.error("The spool cannot be read now: %s", error)
                asyncio.get_running_loop().call_later(SPOOL_RETRY_S, self._wake.set)
                return None
            if output is None:
                return None
            if isinstance(output, Stop):
                return output.reason
            with suppress(WebSocketException):  # the listener tells how it ended
                await socket.send(output.data)

    async def _pause(self, listening: asyncio.Task[str]) -> None:
        """Wait for a wake, a message, or the link's deadline."""
        if listening.done():
            return
        deadline = self.link.deadline()
        if deadline is None:
            await self._wake.wait()
            return
        alarm = asyncio.get_running_loop().call_later(
            max(0.0, deadline - self._clock()), self._wake.set
        )
        try:
            await self._wake.wait()
        finally:
            alarm.cancel()

    # --- what a person should know

    def _log_welcome(self) -> None:
        welcome = self.link.welcome
        assert welcome is not None
        self._logged = ""
        log.info("Connected as %s (%s).", welcome.node_name, welcome.state)
        skew_s = welcome.clock_us / 1e6 - time.time()
        if abs(skew_s) > SKEW_S:
            log.warning(
                "This node's clock is %.0f s %s the server's. Set up time synchronisation (chrony or ntp).",
                abs(skew_s),
                "behind" if skew_s > 0 else "ahead of",
            )

    def _log_trouble(self, wait_s: float) -> None:
        trouble = self.link.trouble
        if trouble != self._logged:
            self._logged = trouble
            log.warning("Not connected: %s Next attempt in %.0f s.", trouble, wait_s)
        else:
            log.debug("Not connected: %s Next attempt in %.0f s.", trouble, wait_s)
