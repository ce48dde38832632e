#!/bin/sh
# What runs under litestream-entry: the database is here, and its replication has begun.
set -e
cd "$(dirname "$0")"
python3 manage.py migrate --no-input --verbosity 0
exec python3 -m gunicorn guestbook.wsgi --bind "${BIND:-0.0.0.0:8000}" --workers 2
