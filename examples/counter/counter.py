#!/usr/bin/env python3
"""The smallest app on SQLite: writes a row every 100 ms and says how many there are. Needs nothing but Python."""

import os
import signal
import sqlite3
import sys
import time

stopping = False


def stop(signum, frame):
    global stopping
    stopping = True


signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, stop)

db = sqlite3.connect(os.environ["DATABASE_PATH"], isolation_level=None, timeout=5)
db.execute("PRAGMA journal_mode = WAL")
db.execute("CREATE TABLE IF NOT EXISTS ticks (id INTEGER PRIMARY KEY, at TEXT NOT NULL)")


def count():
    return db.execute("SELECT count(*) FROM ticks").fetchone()[0]


def say(text):
    print(f"counter: {text}", flush=True)


say(f"{count()} rows found")
written = 0
while not stopping:
    db.execute("INSERT INTO ticks (at) VALUES (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))")
    written += 1
    if written % 10 == 0:
        say(f"{count()} rows")
    time.sleep(0.1)
say(f"{count()} rows at the end")
db.close()
sys.exit(0)
