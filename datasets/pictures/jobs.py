"""Which images a program works on, and where each result goes."""

import glob
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import NamedTuple

from datasets.pictures.formats import FORMATS, LACKING, readable_suffixes, words
from datasets.pictures.image_io import check_output
from utils import UserError, check_folder

SYSTEM = {'thumbs.db', 'ehthumbs.db', 'desktop.ini', '__macosx', '@eadir', '$recycle.bin', 'system volume information'}


class Job(NamedTuple):
    """An image, and the files that are made from it."""

    source: Path
    target: Path
    compare: Path | None  # the figure of the result beside bicubic

    @property
    def done(self) -> bool:
        """Whether all of its files exist: they are written completely or not at all."""
        return os.path.exists(self.target) and (self.compare is None or os.path.exists(self.compare))


class Plan(NamedTuple):
    """The work of a program."""

    jobs: list[Job]
    into_folder: bool  # otherwise the result of the only job is a file
    others: Counter  # how many files in folders were left out, by extension in lower case
    problems: list[UserError]  # inputs, and folders in them, that cannot be read


# ---------------------------------------------------------------- finding


def find_images(
    inputs: Iterable[str], apart: Iterable[Path] = ()
) -> tuple[list[tuple[Path, Path]], Counter, list[UserError]]:
    """The image files that `inputs` stand for: files, folders and patterns (`*`, `?`, `[..]`, `**`).

    Returns a list of (file, place in the output folder), and `others` and `problems` as in `Plan`. The place of a file
    is its name; that of a file in an input folder is its path within that folder, after the folder's name if there are
    other inputs. Hidden and system files, links to folders and the folders `apart` are skipped.
    Raises UserError for a folder in `apart`, for a pattern that nothing matches, and if no file is found.
    """
    given = [path for text in inputs for path in expanded(text)]
    folders = {os.path.realpath(folder) for folder in apart}
    found: list[tuple[Path, Path]] = []
    others: Counter = Counter()
    problems: list[UserError] = []
    for path in given:
        if not os.path.isdir(path):
            found.append((path, Path(path.name)))
            continue
        if os.path.realpath(path) in folders:
            raise UserError(f'{path}: is the folder of the images and of their results')
        images, more, unread = images_below(path, folders)
        problems += unread
        if not images and not unread:
            that = f' that can be read: {in_words(more)}' if more else ''
            problems.append(UserError(f'{path}: no images in this folder{that}'))
        top = Path() if len(given) == 1 else Path(os.path.basename(os.path.realpath(path)))
        found += [(image, top / image.relative_to(path)) for image in images]
        others += more
    if not found and problems:
        raise problems[0]
    return list(dict.fromkeys(found)), others, problems


def expanded(text: str) -> list[Path]:
    """The paths that a pattern matches, sorted; for anything that is not a pattern, the path that it names."""
    if not text:
        raise UserError('an input has no name')
    if text == '-' and not os.path.lexists(text):
        raise UserError('-: images are read from files, not from stdin')
    if os.path.lexists(text) or not glob.has_magic(text):
        return [Path(text)]
    paths = [Path(name) for name in sorted(glob.glob(text, recursive=True))]
    paths = [path for path in paths if not is_system(path.name)]
    if not paths:
        raise UserError(f'{text}: no file matches')
    return paths


def images_below(folder: Path, apart: Collection[str]) -> tuple[list[Path], Counter, list[UserError]]:
    """The image files in a folder and its subfolders, sorted; how many others there are, by extension; and an error for
    each folder that cannot be read. The folders `apart` are skipped."""
    suffixes = readable_suffixes()
    images: list[Path] = []
    others: Counter = Counter()
    problems: list[UserError] = []

    def note(error):
        problems.append(UserError(f'{error.filename}: cannot be read ({error.strerror})'))

    for top, folders, files in os.walk(folder, onerror=note):
        place = Path(top)
        folders[:] = sorted(
            name for name in folders if not is_system(name) and os.path.realpath(place / name) not in apart
        )
        for name in sorted(files):
            suffix = Path(name).suffix.lower()
            if suffix in suffixes and not is_system(name):
                images.append(place / name)
            elif not is_system(name):
                others[suffix] += 1
    return images, others, problems


def in_words(others: Counter) -> str:
    """How many files of each kind were left out: '12 .heic (HEIC needs the package pillow-heif), 3 .txt'."""
    lacking = {suffix: kind for kind in LACKING.values() for suffix in kind.suffixes}
    return ', '.join(
        f'{count} {suffix or "without extension"}' + (f' ({words(lacking[suffix])})' if suffix in lacking else '')
        for suffix, count in others.most_common()
    )


def is_system(name: str) -> bool:
    return name.startswith('.') or name.lower() in SYSTEM


# ---------------------------------------------------------------- planning


def plan(
    inputs: list[str],
    output: str,
    suffix: str | None = None,
    compare: Path | None = None,
    overwrite: bool = False,
    shard: tuple[int, int] | None = None,
    check: Callable[[Path], object] = check_output,
) -> Plan:
    """The `Plan` of `inputs` (see `find_images`).

    `output` is a folder if it exists as one, ends with a slash or has no extension. Results in it are named like the
    inputs, with the extension `suffix` or, if that is None, with their own if it can be written and `.png` otherwise.
    `compare` is then a folder for the figures beside bicubic, or None, and `shard` (i, n) selects every n-th job from
    the i-th on, counted from 1.
    Otherwise `output` and `compare` are files. `check(path)` raises UserError if one cannot be written, and they may
    exist already only with `overwrite`. Raises UserError for whatever prevents the work.
    """
    target = Path(output)
    if '-' in (output, str(compare)):
        raise UserError('-: results are written to files, not to stdout; a folder of this name is ./-/')
    if suffix and suffix not in FORMATS:
        raise UserError(f'{suffix[1:]} cannot be written: {words(LACKING[suffix[1:].upper()])}')
    found, others, problems = find_images(inputs, [path for path in (target, compare) if path])
    several = len(found) > 1 or any(map(os.path.isdir, inputs))
    known = target.suffix.lower() in FORMATS
    folder = os.path.isdir(target) or output.endswith(('/', os.sep)) or not target.suffix or (several and not known)
    if several and not folder:
        raise UserError(f'{output}: the results of more than one image, or of a folder, need a folder')
    if not folder:
        job = single(found[0][0], target, suffix, compare, overwrite, shard, check)
        return Plan([job], False, others, problems)
    jobs = []
    for file, place in found:
        place = place.with_suffix(suffix or (place.suffix if place.suffix.lower() in FORMATS else '.png'))
        jobs.append(Job(file, target / place, compare and compare / place))
    check_jobs(jobs)
    for path in filter(None, (target, compare)):
        check_folder(path)
    first, step = shard or (1, 1)
    return Plan(jobs[first - 1 :: step], True, others, problems)


def single(
    source: Path,
    target: Path,
    suffix: str | None,
    compare: Path | None,
    overwrite: bool,
    shard: tuple[int, int] | None,
    check: Callable[[Path], object],
) -> Job:
    """The `Job` of one image whose result is a file. Arguments and errors are those of `plan`."""
    job = Job(source, target, compare)
    check_jobs([job])
    for path in filter(None, (target, compare)):
        check(path)
        if os.path.exists(path) and not overwrite:
            raise UserError(f'{path}: exists already; -overwrite replaces it')
    if suffix and FORMATS[suffix] != FORMATS[target.suffix.lower()]:
        raise UserError(f'{target}: the extension is of another format than {suffix[1:]}')
    if shard:
        raise UserError('shares are of the images of a folder, not of one image')
    return job


def check_jobs(jobs: list[Job]) -> None:
    """Raise UserError if a file would be written twice, or both read and written."""
    use = {normal(job.source): job for job in jobs}
    for job in jobs:
        for path in filter(None, (job.target, job.compare)):
            other = use.setdefault(normal(path), job)
            if other is not job:
                raise UserError(f'{path}: would be written for {job.source}, and is already the file of {other.source}')
        if len({normal(path) for path in job if path}) < 2 + bool(job.compare):
            raise UserError(f'{job.target}: input, output and comparison are different files')


def normal(path: Path) -> str:
    return os.path.normcase(os.path.realpath(path))
