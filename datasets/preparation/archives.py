"""Files of a folder or of an archive, read one at a time: nothing of an archive is unpacked to disk."""

import contextlib
import stat
import tarfile
import zipfile
from functools import partial
from pathlib import Path, PurePosixPath

from utils import UserError

ARCHIVE_LIMIT = 2**36  # bytes that an archive may hold, unpacked; more is taken for a trap
FILE_LIMIT = 2**28  # bytes of a file that is read


class Damaged(UserError):
    """What is wrong with the archive or folder `path`."""

    def __init__(self, path, what):
        super().__init__(f'{path}: {what}')
        self.path = path


@contextlib.contextmanager
def open_files(path):
    """The files of a folder, a zip or a tar archive (also compressed): a dict of their names, `folder/sub/file.png`, to
    functions that return their bytes. In the order of the archive, in which they are read fastest.

    A name begins with that of the folder, or of the archive without its ending. Links in an archive are left out.
    Raises UserError, as the functions do, for what is missing, damaged, no archive, absurdly large, or has members that
    lie outside it.
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
        with damage(path):
            if zipfile.is_zipfile(path):
                archive = stack.enter_context(zipfile.ZipFile(path))
                members = [
                    (info.filename, info.file_size, info)
                    for info in archive.infolist()
                    if not info.is_dir() and not stat.S_ISLNK(info.external_attr >> 16)
                ]
                reader = archive.open
            elif tarfile.is_tarfile(path):
                archive = stack.enter_context(tarfile.open(path))
                members = [(info.name, info.size, info) for info in measured(archive) if info.isreg()]
                reader = archive.extractfile
            else:
                raise UserError('neither a folder nor a zip or tar archive')
            if sum(size for _, size, _ in members) > ARCHIVE_LIMIT:
                raise UserError(f'holds more than the limit of {ARCHIVE_LIMIT >> 30} GiB')
            for name, _, _ in members:
                inside = PurePosixPath(name.replace('\\', '/'))
                if inside.is_absolute() or '..' in inside.parts:
                    raise UserError(f'not a safe archive: its member {name!r} lies outside it')
        yield {f'{stem}/{name}': partial(read, path, name, reader, [info]) for name, _, info in members}


def measured(archive):
    """The members of a tar archive, which are found only by unpacking it: not further than `ARCHIVE_LIMIT`."""
    total = 0
    for info in archive:
        yield info
        total += info.size
        if total > ARCHIVE_LIMIT:
            return


def read(path, name, reader, args):
    """The bytes of the file `name` in `path`, which `reader(*args)` opens."""
    with damage(path, f'{name}: '):
        with reader(*args) as file:
            data = file.read(FILE_LIMIT + 1)
        if len(data) > FILE_LIMIT:
            raise UserError(f'larger than the limit of {FILE_LIMIT >> 20} MiB')
    return data


@contextlib.contextmanager
def damage(path, member=''):
    """Whatever goes wrong in this context is an error about `path`, or a `member` of it."""
    try:
        yield
    except UserError as error:
        raise Damaged(path, f'{member}{error}') from error
    except Exception as error:  # on damaged files, decoders raise whatever comes to pass
        raise Damaged(path, f'{member}damaged or unreadable ({getattr(error, "strerror", None) or error})') from error
