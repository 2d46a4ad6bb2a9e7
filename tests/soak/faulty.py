"""The server with a planted bug, to see that the oracle turns red: an ASGI application for ScratchServer(app=...).

SOAK_APP=tests.soak.faulty:ack_before_commit make soak ONLY=chaos-kill-9
"""

from typing import Any

from dcops import asgi
from dcops.telemetry.committer import Committer
from dcops.telemetry.intake import Incoming, Parts
from dcops.telemetry.writer import Outcome


async def ack_before_commit(scope: Any, receive: Any, send: Any) -> None:
    """Batches are acknowledged when they arrive: what is in memory at a kill is lost."""
    _plant("submit", Committer, _submit_early)
    await asgi.application(scope, receive, send)


async def store_again(scope: Any, receive: Any, send: Any) -> None:
    """Records that were stored before are stored again when they are sent again."""
    _plant("without", Parts, lambda parts, known: None)
    await asgi.application(scope, receive, send)


def _plant(name: str, where: type, bug: Any) -> None:
    if getattr(where, name) is not bug and name not in _PLANTED:
        _PLANTED[name] = getattr(where, name)
        setattr(where, name, bug)


_PLANTED: dict[str, Any] = {}


async def _submit_early(committer: Committer, incoming: Incoming, done: Any) -> bool:
    done(Outcome([(record.seq, record.seq) for record in incoming.batch.records]))
    taken: bool = await _PLANTED["submit"](committer, incoming, lambda outcome: None)
    return taken
