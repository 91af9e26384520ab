"""Decoded images in one file that is mapped into memory, so that a crop reads only its own pixels."""

import contextlib
import hashlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from tqdm import tqdm

from utils import UserError, atomic_path

try:
    import fcntl
except ImportError:  # Windows, where nothing is removed
    fcntl = None  # type: ignore[assignment]

ABANDONED = 3600  # seconds without a write, after which a half-written file counts as left over
READING = 2  # raised when decoding changes, so that older caches are not used


class MappedImages:
    """The images of `files`, a sequence of uint8 arrays `(H, W, 3)` that are views of the cache file.

    `read(file)` decodes an image. All are decoded the first time, and again if a file has changed or the cache is
    damaged. The cache lies in `root/.cache` or, if that cannot be written, in `.cache` in the current folder. Workers
    are handed only its path. `choice`, strings and numbers, says which of the folder's images `files` are: an older
    cache of the same choice is removed, unless a process uses it.
    Raises UserError if the cache can be written to neither folder.
    """

    def __init__(self, root: Path, files: Sequence[Path], read: Callable[[Path], np.ndarray], choice: tuple = ()):
        stamps = [[str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns] for f in files]
        name = hashlib.sha256(json.dumps([READING, stamps]).encode()).hexdigest()[:16]
        owner = json.loads(json.dumps([str(root.resolve()), *choice]))
        folders, failed = (root / '.cache', Path('.cache')), []
        for folder in folders:
            self.file, index = (folder / name).resolve().with_suffix('.bin'), folder / f'{name}.json'
            try:
                self.shapes, self.used = opened(self.file, index, len(files))
                if self.used is None:
                    if index.exists() and self.file.exists():
                        print(f'{self.file}: damaged, the images are decoded anew', file=sys.stderr)
                    self.shapes = write(self.file, index, files, read, owner)
                    self.used = open(self.file, 'rb')  # noqa: SIM115  (as long as the images are used)
                    share(self.used)
                break
            except OSError as error:
                failed.append(f'{folder} ({error.strerror})')
        else:
            raise UserError(f'the decoded images can be kept neither in {" nor in ".join(failed)}')
        self.map()
        remove_superseded(folder, owner, name)

    def map(self) -> None:
        self.pixels = np.memmap(self.used, np.uint8, 'r')  # type: ignore[call-overload]
        self.offsets = np.cumsum([0, *map(math.prod, self.shapes)])

    def __getstate__(self) -> dict:
        return {'file': self.file, 'shapes': self.shapes}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self.used = open(self.file, 'rb')
        share(self.used)
        self.map()

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, i: int) -> np.ndarray:
        return self.pixels[self.offsets[i] : self.offsets[i + 1]].reshape(self.shapes[i])


def opened(file: Path, index: Path, count: int) -> tuple[list, BinaryIO | None]:
    """The shapes of the `count` images in a cache and its open file, marked as used; None if it is incomplete."""
    try:
        used = open(file, 'rb')
        share(used)
        shapes = read_index(index)['shapes']
        sizes = [math.prod(shape) for shape in shapes if len(shape) == 3 and shape[2] == 3 and min(shape) > 0]
        if len(sizes) == len(shapes) == count and sum(sizes) == os.fstat(used.fileno()).st_size and file.exists():
            return shapes, used
        used.close()
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        pass
    return [], None


def read_index(index: Path) -> dict:
    """The content of an index: the 'shapes' of the images, and 'of', whose images they are. Raises ValueError if the
    file is not an index."""
    content = json.loads(index.read_text(encoding='utf-8'))
    if not isinstance(content, dict):
        raise ValueError('no index')
    return content


def write(file: Path, index: Path, files: Sequence[Path], read: Callable, owner: list) -> list:
    """Write the pixels to `file` and then their shapes to `index`, which therefore exists only if all is written.
    Returns the shapes."""
    file.parent.mkdir(exist_ok=True)
    index.unlink(missing_ok=True)
    shapes = []
    with atomic_path(file) as temporary, open(temporary, 'wb') as out:
        for source in tqdm(files, 'decoding', unit='image', delay=2, leave=False):
            image = read(source)
            shapes.append(image.shape)
            out.write(image.tobytes())
    with atomic_path(index) as temporary:
        temporary.write_text(json.dumps({'of': owner, 'shapes': shapes}), encoding='utf-8')
    return shapes


def share(file: BinaryIO) -> None:
    """Mark an open cache file as used, until it is closed by this process and by those forked from it."""
    if fcntl:
        with contextlib.suppress(OSError):  # a file system without locks: the cache may be removed while it is used
            fcntl.flock(file, fcntl.LOCK_SH)


def remove_superseded(folder: Path, owner: list, name: str) -> None:
    """Remove the caches in `folder` of the same `owner` except `name`, and files that were left half-written."""
    if not fcntl:
        return
    for index in folder.glob('*.json'):
        with contextlib.suppress(OSError, ValueError):
            if index.stem != name and read_index(index).get('of') == owner:
                with unused(index.with_suffix('.bin')) as file:
                    index.unlink()
                    file.unlink()
    for leftover in folder.glob('.*.partial*'):
        with contextlib.suppress(OSError):
            if time.time() - leftover.stat().st_mtime > ABANDONED:
                leftover.unlink()


@contextlib.contextmanager
def unused(file: Path) -> Iterator[Path]:
    """Lock `file` so that no process can begin to use it. Raises OSError if a process uses it, or if that cannot be
    known."""
    with open(file, 'rb+') as held:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield file
