"""Reading the files of a folder or an archive one at a time, without unpacking the archive to disk."""

import contextlib
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from utils import UserError

ARCHIVE_LIMIT = 2**36  # bytes of an archive's content; more is taken for a decompression bomb
FILE_LIMIT = 2**28  # bytes of one file


class Damaged(UserError):
    """An archive or folder, `path`, that cannot be read."""

    def __init__(self, path: Path, what: str):
        super().__init__(f'{path}: {what}')
        self.path = path


@contextlib.contextmanager
def open_files(path: str | Path) -> Iterator[dict[str, Callable[[], bytes]]]:
    """The files of a folder or of a zip or tar archive (also compressed): a dict from names (`folder/sub/file.png`) to
    functions that return a file's bytes. They are in the order of the archive, which is the fastest to read.

    A name begins with the name of the folder, or of the archive without its extensions. Links in an archive are
    skipped. Raises UserError if `path` is missing, damaged, too large, neither a folder nor an archive, or an archive
    with members that lie outside it. The functions raise UserError for files that are damaged or too large.
    """
    path = Path(path)
    if path.is_dir():
        files = [file for file in sorted(path.resolve().rglob('*')) if file.is_file()]
        yield {
            file.relative_to(path.resolve().parent).as_posix(): partial(read, path, file.name, file.open, ['rb'])
            for file in files
        }
        return
    if not path.is_file():
        raise UserError(f'{path}: no such file or folder')
    stem = path.name.split('.')[0]
    with contextlib.ExitStack() as stack:
        members: list[tuple[str, int, Any]]  # name, size in bytes, and what `reader` takes
        reader: Callable
        with damage(path):
            if zipfile.is_zipfile(path):
                zip_file = stack.enter_context(zipfile.ZipFile(path))
                members = [
                    (info.filename, info.file_size, info)
                    for info in zip_file.infolist()
                    if not info.is_dir() and not stat.S_ISLNK(info.external_attr >> 16)
                ]
                reader = zip_file.open
            elif tarfile.is_tarfile(path):
                tar_file = stack.enter_context(tarfile.open(path))
                members = [(info.name, info.size, info) for info in members_of(tar_file) if info.isreg()]
                reader = tar_file.extractfile
            else:
                raise UserError('neither a folder nor a zip or tar archive')
            if sum(size for _, size, _ in members) > ARCHIVE_LIMIT:
                raise UserError(f'holds more than the limit of {ARCHIVE_LIMIT >> 30} GiB')
            for name, _, _ in members:
                inside = PurePosixPath(name.replace('\\', '/'))
                if inside.is_absolute() or '..' in inside.parts:
                    raise UserError(f'not a safe archive: its member {name!r} lies outside it')
        yield {f'{stem}/{name}': partial(read, path, name, reader, [info]) for name, _, info in members}


def members_of(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The members of a tar archive. Because finding them means decompressing it, this stops beyond `ARCHIVE_LIMIT`."""
    total = 0
    for info in archive:
        yield info
        total += info.size
        if total > ARCHIVE_LIMIT:
            return


def read(path: Path, name: str, reader: Callable, args: list) -> bytes:
    """The bytes of the file `name` in `path`; `reader(*args)` opens it."""
    with damage(path, f'{name}: '):
        with reader(*args) as file:
            data = file.read(FILE_LIMIT + 1)
        if len(data) > FILE_LIMIT:
            raise UserError(f'larger than the limit of {FILE_LIMIT >> 20} MiB')
    return data


@contextlib.contextmanager
def damage(path: Path, member: str = '') -> Iterator[None]:
    """Turn any error in this context into a `Damaged` that names `path` and a `member` of it."""
    try:
        yield
    except UserError as error:
        raise Damaged(path, f'{member}{error}') from error
    except Exception as error:  # decoders raise errors of any kind on damaged files
        raise Damaged(path, f'{member}damaged or unreadable ({getattr(error, "strerror", None) or error})') from error
