"""Where compiled code is kept: files with their own hash in their names, in a folder that only the user writes to.

Code that is loaded runs with all rights of its user. So what others could have put there is refused, and what is
damaged is found before it is loaded (a truncated library ends the process when it is).
"""

import contextlib
import hashlib
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path


def folder() -> Path:
    """The folder, `$XDG_CACHE_HOME/msit` or `~/.cache/msit`, made for the user alone. Raises OSError if it cannot be
    made or is not safe, RuntimeError if there is no home."""
    path = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'msit'
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    check_safe(path, os.stat(path))
    return path


def check_safe(path: Path, found: os.stat_result) -> None:
    """Raise PermissionError if another user owns `path` or may write to it; `found` is what `stat` says of it."""
    if found.st_uid != os.geteuid():
        raise PermissionError(f'{path} belongs to another user; remove it')
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(f'others may write to {path}; remove it')


def kept(key: str, make: Callable[[Path], None]) -> Path:
    """The path of the file that is kept under `key`; where there is none, or a damaged one, `make(path)` makes it.
    Raises OSError if the folder or the file is not safe or cannot be written."""
    inside = folder()
    for path in sorted(inside.glob(f'{key}-*')):
        check_safe(path, os.lstat(path))
        if path.name == name_of(key, path):
            return path
        path.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(dir=inside) as temporary:
        made = Path(temporary) / key
        make(made)
        path = inside / name_of(key, made)
        made.chmod(0o700)
        os.replace(made, path)
    return path


def name_of(key: str, path: Path) -> str:
    """The name under which the file at `path` is kept: it ends with the hash of what the file holds."""
    return f'{key}-{hashlib.sha256(path.read_bytes()).hexdigest()[:32]}.so'
