#!/usr/bin/env python3
"""The app that benches/loss runs: commits rows, each acknowledged in a file once SQLite has it, and ends as it is told."""

import argparse
import json
import mmap
import os
import pathlib
import signal
import sqlite3
import struct
import subprocess
import sys
import time

options = argparse.ArgumentParser()
options.add_argument("--db", required=True)
options.add_argument("--ack", help="file that holds the number of committed rows")
options.add_argument("--rows", type=int, help="stop writing after so many more, then wait for TERM")
options.add_argument("--every", type=float, default=0, help="milliseconds between two commits")
options.add_argument("--live", type=float, help="end after so many seconds, with --exit")
options.add_argument("--exit", type=int, default=0, help="exit code at the end of --live")
options.add_argument("--on-term", type=int, default=0, help="exit code on TERM")
options.add_argument("--inspect", help="write no row; say in this file what was found")
options.add_argument("--orphans", type=int, help="leave so many orphans behind, and say in --inspect how many became zombies")
args = options.parse_args()


def term(signum, frame):
    os._exit(args.on_term)


signal.signal(signal.SIGTERM, term)
born = time.monotonic()


def live_on():
    if args.live is not None:
        time.sleep(max(0, born + args.live - time.monotonic()))
        os._exit(args.exit)
    while True:
        signal.pause()


def report(**found):
    path = pathlib.Path(args.inspect)
    path.with_suffix(".tmp").write_text(json.dumps(found))
    path.with_suffix(".tmp").rename(path)


def zombies():
    found = 0
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            found += stat.read_text().rsplit(")", 1)[1].split()[0] == "Z"
        except OSError:
            pass
    return found


if args.orphans:
    for _ in range(args.orphans):
        subprocess.run(["sh", "-c", "sleep 0.2 &"], check=True)
    time.sleep(1)
    report(zombies=zombies())
    live_on()

db = sqlite3.connect(args.db, isolation_level=None, timeout=10)

if args.inspect:
    try:
        check = db.execute("PRAGMA integrity_check").fetchone()[0]
        tables = db.execute("SELECT count(*) FROM sqlite_master WHERE name = 't'").fetchone()[0]
        report(check=check, rows=db.execute("SELECT count(*) FROM t").fetchone()[0] if tables else 0)
    except sqlite3.DatabaseError as error:
        report(check=str(error), rows=0)
    live_on()

db.execute("PRAGMA journal_mode = WAL")
db.execute("PRAGMA synchronous = NORMAL")
db.execute("CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, text TEXT NOT NULL)")
done = db.execute("SELECT count(*) FROM t").fetchone()[0]

with open(args.ack, "a+b") as file:
    file.truncate(8)
    ack = mmap.mmap(file.fileno(), 8)
ack[:8] = struct.pack("<q", done)

last = None if args.rows is None else done + args.rows
due = time.monotonic()
while last is None or done < last:
    if args.live is not None and time.monotonic() - born >= args.live:
        sys.exit(args.exit)
    done += 1
    db.execute("INSERT INTO t VALUES (?, ?)", (done, f"row {done} " + "x" * 80))
    ack[:8] = struct.pack("<q", done)
    if args.every:
        due = max(due + args.every / 1000, time.monotonic() - 0.05)
        time.sleep(max(0, due - time.monotonic()))
live_on()
