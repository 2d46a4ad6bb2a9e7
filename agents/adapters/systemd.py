"""What systemd wants to hear from a service of Type=notify: one datagram to the socket that it names."""

import os
import socket
from collections.abc import Mapping


class Notifier:
    """Says nothing where there is no systemd."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):
            self._address = "\0" + self._address[1:]
        self._watched = "WATCHDOG_USEC" in environment
        self._ready = False

    def ticked(self) -> None:
        """The service works: said at the first tick, and at each one to a watchdog."""
        if not self._ready:
            self._ready = True
            self.say("READY=1")
        elif self._watched:
            self.say("WATCHDOG=1")

    def say(self, state: str) -> None:
        """Send READY=1, WATCHDOG=1, STOPPING=1 or STATUS=... A systemd that does not listen is no reason to fail."""
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as end:
            try:
                end.connect(self._address)
                end.send(state.encode())
            except OSError:
                return
