"""An app that writes down each signal that it gets, one a line, in its first argument.

Every signal is blocked and fetched, so that none is merged with the one before it. A line `winch ROWS
COLUMNS` carries the window's size. USR2 ends it with code 7.
"""

import os
import signal
import sys

WANTED = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}
signal.pthread_sigmask(signal.SIG_BLOCK, WANTED)
log = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def say(text):
    os.write(log, f"{text}\n".encode())


say("ready")
while True:
    number = signal.sigwaitinfo(WANTED).si_signo
    if number == signal.SIGWINCH and os.isatty(0):
        size = os.get_terminal_size(0)
        say(f"winch {size.lines} {size.columns}")
        continue
    say(number)
    if number == signal.SIGUSR2:
        sys.exit(7)
