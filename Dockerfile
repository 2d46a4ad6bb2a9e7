# The server: web, live, ingest, worker, beat and migrate of docker-compose.yml are this one image.
FROM python:3.12-slim AS build
WORKDIR /srv/dcops
COPY requirements.txt .
RUN python -m venv /opt/dcops && /opt/dcops/bin/pip install --no-cache-dir --require-hashes -r requirements.txt
COPY . .
RUN /opt/dcops/bin/pip install --no-cache-dir --no-deps --no-build-isolation -e . \
 && DCOPS_SECRET_KEY=unused-at-build DCOPS_DATABASE_URL=postgresql://unused/unused DCOPS_STATIC_ROOT=/srv/static \
    /opt/dcops/bin/python manage.py collectstatic --noinput

FROM python:3.12-slim
RUN useradd --system --uid 10001 --home-dir /var/lib/dcops --create-home dcops && chmod 0700 /var/lib/dcops
COPY --from=build /opt/dcops /opt/dcops
COPY --from=build /srv /srv
ENV PATH=/opt/dcops/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    DCOPS_DATA_DIR=/var/lib/dcops DCOPS_STATIC_ROOT=/srv/static
USER 10001:10001
VOLUME /var/lib/dcops
WORKDIR /srv/dcops
CMD ["dcops", "--help"]
