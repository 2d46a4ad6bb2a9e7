"""One ASGI application for pages, live sockets and the agents' link.

Compose runs it in three processes behind one proxy; `dcops up` runs it as one. The agents' side is bare ASGI: Django's
handler would cost it fifty times the CPU (see ARCHITECTURE.md, decisions).
"""

import os
from collections.abc import Awaitable, Callable
from typing import Any

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "dcops.settings")
pages = get_asgi_application()

# These import models, which need the apps that the line above has loaded.
from dashboards.live import live_application
from dcops.telemetry.ingest import ingest_application

Message = dict[str, Any]


async def application(
    scope: Message,
    receive: Callable[[], Awaitable[Message]],
    send: Callable[[Any], Awaitable[None]],
) -> None:
    """Route by path: /agent/ and start-up to ingest, other sockets to the live pages, the rest to Django."""
    if scope["type"] == "lifespan" or scope["path"].startswith("/agent/"):
        await ingest_application(scope, receive, send)
    elif scope["type"] == "websocket":
        await live_application(scope, receive, send)
    else:
        await pages(scope, receive, send)
