#!/bin/sh
# Run once by the postgres image on an empty data directory: the roles and the database of dcops, as `dcops up` makes them.
set -eu
secrets="${SECRETS_DIR:-/run/secrets}"
psql --no-psqlrc --quiet --username "$POSTGRES_USER" --dbname postgres --set ON_ERROR_STOP=1 \
    --set owner="$(cat "$secrets/postgres_owner")" \
    --set app="$(cat "$secrets/postgres_app")" \
    --set grafana="$(cat "$secrets/postgres_grafana")" <<'SQL'
CREATE ROLE dcops_owner LOGIN PASSWORD :'owner';
CREATE ROLE dcops_app LOGIN PASSWORD :'app';
CREATE ROLE dcops_grafana LOGIN PASSWORD :'grafana';
CREATE DATABASE dcops OWNER dcops_owner;
REVOKE ALL ON DATABASE dcops FROM PUBLIC;
GRANT CONNECT ON DATABASE dcops TO dcops_app, dcops_grafana;
SQL
