"""Signals that ask a training to stop: Ctrl-C, `kill`, a closed terminal, a queue's warning that time is up."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator

NAMES = ('SIGTERM', 'SIGINT', 'SIGHUP', 'SIGUSR1', 'SIGUSR2', 'SIGXCPU')  # LSF sends the fifth, `ulimit -t` the last
SIGNALS = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))  # Windows has the first two


class Stopped(BaseException):
    """Raised out of work that a signal cuts short. Not an Exception, so that only the code that
    allowed the signal catches it."""


@contextlib.contextmanager
def handled(handler: Callable[[int, object], None]) -> Iterator[None]:
    """`handler(signum, frame)` receives the signals in this block; afterwards they are handled as they were before.

    A process that ignores SIGHUP (nohup) goes on ignoring it. For the main thread, as all of Python's handlers.
    """
    terminals = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]

    def handle(signum, frame):
        if signum == getattr(signal, 'SIGHUP', None):
            for descriptor in terminals:  # which is gone: writing to it would fail
                silence(descriptor)
        handler(signum, frame)

    before = {}
    try:
        for signum in SIGNALS:
            if signal.getsignal(signum) != signal.SIG_IGN or signum in (signal.SIGTERM, signal.SIGINT):
                before[signum] = signal.signal(signum, handle)
        yield
    finally:
        for signum, previous in before.items():
            signal.signal(signum, previous)


def silence(descriptor: int) -> None:
    """What is written to a file descriptor is dropped from now on."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def leave(signum: int, _: object) -> None:
    """Handler for a program that has nothing to save: it ends at once, tidily."""
    if signum == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + signum)
