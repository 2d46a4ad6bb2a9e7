"""One ASGI application for pages, live sockets and the agents' link.

Compose runs it in three processes behind one proxy; `dcops up` runs it as one. The agents' side is bare ASGI: Django's
handler would cost it fifty times the CPU (see ARCHITECTURE.md, decisions).
"""

import os

from asgiref.typing import ASGIReceiveCallable, ASGISendCallable, Scope
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "dcops.settings")
pages = get_asgi_application()

# These import models, which need the apps that the line above has loaded.
from dashboards.live import live_application
from dcops.telemetry.ingest import ingest_application


async def application(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    """Route by path: /agent/ and start-up to ingest, other sockets to the live pages, the rest to Django."""
    if scope["type"] == "lifespan" or scope["path"].startswith("/agent/"):
        await ingest_application(scope, receive, send)
    elif scope["type"] == "websocket":
        await live_application(scope, receive, send)
    else:
        await pages(scope, receive, send)
