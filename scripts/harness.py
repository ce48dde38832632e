"""What the checks and benches written in Python share: containers without an engine, digests, restores."""

import hashlib
import os
import pathlib
import shutil
import signal
import sqlite3
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
TOOLS = (ROOT / os.environ.get("TOOLS", "target/tools")).resolve()
LINES = {"0.5": "0.5.17", "0.3": "0.3.13"}


def die(text):
    sys.exit(f"{pathlib.Path(sys.argv[0]).name}: {text}")


def get_tools(*words):
    subprocess.run([ROOT / "scripts/tools", *words], check=True)


def litestream(line):
    return TOOLS / f"litestream-{LINES[line]}" / "litestream"


def entry():
    """The program: $LITESTREAM_ENTRY, or the release build, made now."""
    if given := os.environ.get("LITESTREAM_ENTRY"):
        return pathlib.Path(given).resolve()
    subprocess.run(["cargo", "build", "--release", "--locked", "--quiet"], cwd=ROOT, check=True)
    return TARGET / "release/litestream-entry"


def environment(**more):
    """A container's environment: nothing of the caller's but what finds programs and names the language."""
    keep = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    return keep | {name: str(value) for name, value in more.items()}


def namespace():
    """The command that makes a container, or None where none can be made."""
    for flags in ([], ["--user", "--map-root-user"]):
        command = ["unshare", *flags, "--pid", "--fork", "--kill-child", "--mount-proc"]
        if shutil.which("unshare") and subprocess.run([*command, "true"], stderr=subprocess.DEVNULL).returncode == 0:
            return command
    return None


def wait_until(what, seconds, condition, step=0.01):
    """The first true value of condition(). TimeoutError after so many seconds."""
    deadline = time.monotonic() + seconds
    while True:
        if value := condition():
            return value
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds} s")
        time.sleep(step)


def children(pid):
    """Of every thread: a Go program starts its children from any."""
    found = []
    for tasks in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += map(int, tasks.read_text().split())
        except OSError:
            pass
    return found


class Container:
    """A command as PID 1 of a PID namespace of its own."""

    def __init__(self, argv, env, prefix=None, log=subprocess.DEVNULL, **more):
        prefix = prefix or namespace() or die("needs PID namespaces (unshare --pid), which are refused here")
        self.shell = subprocess.Popen(
            [shutil.which(prefix[0]), *prefix[1:], *map(str, argv)], env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **more
        )
        self.pid = None
        try:
            self.pid = wait_until("start", 10, lambda: self.shell.poll() is None and children(self.shell.pid) or
                                  self.shell.poll() is not None and [None])[0]
        except TimeoutError:
            self.kill()
            raise

    def signal(self, number=signal.SIGTERM):
        if self.pid:
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                pass

    def running(self):
        return self.shell.poll() is None

    def wait(self, seconds=60):
        """The exit code as a shell or an engine shows it. Killed after so many seconds."""
        try:
            code = self.shell.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise TimeoutError(f"did not end within {seconds} s") from None
        return code if code >= 0 else 128 - code

    def stop(self, seconds=60):
        self.signal()
        return self.wait(seconds)

    def kill(self):
        # unshare --kill-child takes PID 1 along, and the kernel takes the rest of the namespace.
        self.shell.kill()
        self.shell.wait()

    def __enter__(self):
        return self

    def __exit__(self, *failure):
        if self.running():
            self.kill()


def rows(db, table):
    """How many rows, and a digest of every one of them; (0, None) where there is no such database or table."""
    if not os.path.exists(db):
        return 0, None
    connection = sqlite3.connect(db, timeout=10)
    try:
        count, digest = 0, hashlib.sha256()
        for row in connection.execute(f"SELECT * FROM {table} ORDER BY 1"):
            count += 1
            digest.update(repr(row).encode())
        return count, digest.hexdigest()
    except sqlite3.DatabaseError as error:
        if "no such table" in str(error):
            return 0, None
        raise
    finally:
        connection.close()


def restore(line, db, replica, out):
    """Restores with Litestream alone, told of the replica by a file of its own. True where there is a backup."""
    out = pathlib.Path(out)
    for path in out.parent.glob(out.name + "*"):
        path.unlink()
    config = out.with_suffix(".yml")
    config.write_text(f"dbs:\n  - path: {db}\n    replicas:\n      - type: file\n        path: {replica}\n")
    subprocess.run(
        [litestream(line), "restore", "-config", config, "-o", out, db],
        env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )
    return out.exists()
