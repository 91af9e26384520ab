"""A lock on a run's folder, which the system drops when the process that holds it ends, however it ends."""

import contextlib
import errno
import os
import socket
from pathlib import Path
from typing import TextIO

from utils import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


class Lock:
    """Holds the file `path` from `acquire` to `release`: no other process can then acquire it.

    The file tells the process and its computer. Where the system or the file system has no locks, the process that the
    file tells of is looked for instead, on the same computer.
    """

    def __init__(self, path: Path):
        self.path = path
        self.file: TextIO | None = None

    def acquire(self) -> None:
        """Raises UserError, naming the process, if another one holds the lock, or if the file cannot be written."""
        try:
            while self.file is None:
                file = open(self.path, 'a+', encoding='utf-8')  # noqa: SIM115  (held until release)
                try:
                    self.claim(file)
                    if self.is_at_path(file):  # and was not removed in between by who held it
                        self.file = file
                finally:
                    if self.file is None:
                        file.close()
            self.file.truncate(0)
            self.file.write(f'{os.getpid()} {socket.gethostname()}\n')
            self.file.flush()
        except OSError as error:
            self.release()
            raise UserError(f'{self.path}: cannot be written ({error.strerror})') from error

    def claim(self, file: TextIO) -> None:
        file.seek(0)
        number, _, host = file.read().strip().partition(' ')
        try:
            if fcntl is None:
                raise OSError(errno.ENOLCK, 'no locks')
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            taken = error.errno in (errno.EACCES, errno.EAGAIN)
        if taken or (host == socket.gethostname() and number.isdecimal() and is_running(int(number))):
            who = f'process {number} on {host}' if number else 'another process'
            raise UserError(f'{self.path.parent}: {who} is training in this folder; a run has one process at a time')

    def is_at_path(self, file: TextIO) -> bool:
        try:
            return os.path.samestat(os.fstat(file.fileno()), os.stat(self.path))
        except FileNotFoundError:
            return False

    def __enter__(self):
        self.acquire()
        return self

    def __exit__(self, *_) -> None:
        self.release()

    def release(self) -> None:
        """Give the lock back, if it is held, and remove the file."""
        if self.file is not None:
            if fcntl is None:  # an open file cannot be removed there
                self.file.close()
            with contextlib.suppress(OSError):  # where it stays, nobody holds it
                self.path.unlink()
            self.file.close()
            self.file = None


def is_running(number: int) -> bool:
    """Whether there is a process of this number on this computer, other than this one."""
    if number == os.getpid():
        return False
    if os.name == 'nt':  # os.kill would send Ctrl-C
        import ctypes

        handle = ctypes.windll.kernel32.OpenProcess(0x1000, False, number)  # type: ignore[attr-defined]
        if handle:
            ctypes.windll.kernel32.CloseHandle(handle)  # type: ignore[attr-defined]
        return bool(handle)
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
