"""The pages and the API as WSGI, for the `web` service of docker-compose.yml (eight times ASGI's throughput)."""

import os

from django.core.wsgi import get_wsgi_application
from granian.utils.proxies import wrap_wsgi_with_proxy_headers

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "dcops.settings")

# Who a request came from is believed only of the proxy; uvicorn reads the same variable for live and ingest.
application = wrap_wsgi_with_proxy_headers(
    get_wsgi_application(), trusted_hosts=os.environ.get("FORWARDED_ALLOW_IPS", "127.0.0.1")
)
