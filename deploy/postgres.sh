#!/bin/sh
# What the database of docker-compose.yml is made of, once: a role for Oriel that owns its database and nothing else. A
# superuser would be exempt from row-level security. What only a superuser may say is said here: that looking for a word
# in a list tells nothing of other rows, so that it may use its index behind row-level security.
set -eu
psql --quiet --set ON_ERROR_STOP=1 --set password="$POSTGRES_PASSWORD" --username "$POSTGRES_USER" <<'SQL'
CREATE ROLE oriel LOGIN PASSWORD :'password';
CREATE DATABASE oriel OWNER oriel;
\connect oriel
ALTER FUNCTION jsonb_contains(jsonb, jsonb) LEAKPROOF;
SQL
