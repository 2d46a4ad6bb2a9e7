"""One ASGI application for pages, live sockets and the agents' link.

Compose runs it in three processes behind one proxy; `dcops up` runs it as one. The agents' side is bare ASGI: Django's
handler would cost it fifty times the CPU (see ARCHITECTURE.md, decisions).
"""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "dcops.settings")

from django.core.asgi import get_asgi_application

pages = get_asgi_application()

from dashboards.live import live_application
from dcops.telemetry.ingest import ingest_application

Scope = dict  # type: ignore[type-arg]


async def application(scope, receive, send):  # type: ignore[no-untyped-def]
    """Route by path: /agent/ to ingest, other sockets to the live pages, the rest to Django."""
    if scope["type"] == "lifespan":
        await ingest_application(scope, receive, send)
    elif scope["path"].startswith("/agent/"):
        await ingest_application(scope, receive, send)
    elif scope["type"] == "websocket":
        await live_application(scope, receive, send)
    else:
        await pages(scope, receive, send)
