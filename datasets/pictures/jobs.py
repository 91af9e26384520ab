"""Which images a program is to work on, and where each result goes."""

import glob
import os
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from datasets.pictures.image_io import FORMATS, READABLE, check_output
from utils import UserError, check_folder

SYSTEM = {'thumbs.db', 'ehthumbs.db', 'desktop.ini', '__macosx', '@eadir', '$recycle.bin', 'system volume information'}


class Job(NamedTuple):
    source: Path
    target: Path
    compare: Path | None  # the picture of the result beside bicubic

    @property
    def done(self):
        """Whether all of it exists: files are written completely or not at all."""
        return self.target.exists() and (self.compare is None or self.compare.exists())


# ---------------------------------------------------------------- finding


def find_images(inputs, apart=()):
    """The image files that `inputs` stand for: files, folders and patterns (`*`, `?`, `[..]`, `**`).

    Returns a list of (file, place), its place in the output folder being its name or, within a folder, its path from
    there, after the folder's name if that is not the only input; and how many files in folders were left out because
    their names are not of images. Hidden and system files, links to folders and the folders `apart` are not looked at.
    Raises UserError for a folder without images, in `apart` or that cannot be read, and a pattern that nothing matches.
    """
    given, found, others = [path for text in inputs for path in expanded(text)], [], 0
    for path in given:
        if not path.is_dir():
            found.append((path, Path(path.name)))
            continue
        folders = {folder.resolve() for folder in apart}
        if path.resolve() in folders:
            raise UserError(f'{path}: is the folder of the images and of their results')
        images, more = images_below(path, folders)
        if not images:
            raise UserError(f'{path}: no images in this folder')
        top = Path() if len(given) == 1 else Path(path.resolve().name)
        found += [(image, top / image.relative_to(path)) for image in images]
        others += more
    return list(dict.fromkeys(found)), others


def expanded(text):
    """The paths that a pattern matches, sorted; of anything else, the one that it names."""
    if not text:
        raise UserError('an input has no name')
    if os.path.lexists(text) or not glob.has_magic(text):
        return [Path(text)]
    paths = [Path(name) for name in sorted(glob.glob(text, recursive=True))]
    paths = [path for path in paths if not is_system(path.name)]
    if not paths:
        raise UserError(f'{text}: no file matches')
    return paths


def images_below(folder, apart):
    """The image files in a folder and its folders, sorted, and the number of other files."""

    def refuse(error):
        raise UserError(f'{error.filename}: cannot be read ({error.strerror})')

    suffixes = {suffix for suffix, name in Image.registered_extensions().items() if name in READABLE}
    images, others = [], 0
    for place, folders, files in os.walk(folder, onerror=refuse):
        place = Path(place)
        folders[:] = sorted(name for name in folders if not is_system(name) and (place / name).resolve() not in apart)
        for name in sorted(files):
            if not is_system(name):
                known = Path(name).suffix.lower() in suffixes
                images += [place / name] if known else []
                others += not known
    return images, others


def is_system(name):
    return name.startswith('.') or name.lower() in SYSTEM


# ---------------------------------------------------------------- planning


def plan(inputs, output, suffix=None, compare=None, overwrite=False, shard=None, check=check_output):
    """The `Job`s of `inputs` (see `find_images`), whether their results go into a folder, and how many files were left
    out.

    `output` is a folder if it is one, ends with a slash or has no extension. There, results are named like the inputs,
    with the extension `suffix` or, if that is None, their own where it can be written and else `.png`; `compare` is a
    folder for the pictures beside bicubic, or None; `shard` (i, n), only every n-th job from the i-th on, from 1 on.
    Otherwise `output` and `compare` are files that `check` finds can be written, and that may only exist if they are
    to be `overwrite`n. Raises UserError for whatever is in the way.
    """
    target = Path(output)
    found, others = find_images(inputs, [path for path in (target, compare) if path])
    several = len(found) > 1 or any(map(os.path.isdir, inputs))
    known = target.suffix.lower() in FORMATS
    folder = target.is_dir() or output.endswith(('/', os.sep)) or not target.suffix or (several and not known)
    if several and not folder:
        raise UserError(f'{output}: the results of more than one image, or of a folder, need a folder')
    if not folder:
        return [single(found[0][0], target, suffix, compare, overwrite, shard, check)], False, others
    jobs = []
    for file, place in found:
        place = place.with_suffix(suffix or (place.suffix if place.suffix.lower() in FORMATS else '.png'))
        jobs.append(Job(file, target / place, compare and compare / place))
    check_jobs(jobs)
    for path in filter(None, (target, compare)):
        check_folder(path)
    first, step = shard or (1, 1)
    return jobs[first - 1 :: step], True, others


def single(source, target, suffix, compare, overwrite, shard, check):
    """The `Job` of one image whose result is a file. Arguments and errors are those of `plan`."""
    job = Job(source, target, compare)
    check_jobs([job])
    for path in filter(None, (target, compare)):
        check(path)
        if path.exists() and not overwrite:
            raise UserError(f'{path}: exists already; -overwrite replaces it')
    if suffix and FORMATS[suffix] != FORMATS[target.suffix.lower()]:
        raise UserError(f'{target}: the extension is of another format than {suffix[1:]}')
    if shard:
        raise UserError('shares are of the images of a folder, not of one image')
    return job


def check_jobs(jobs):
    """Raise UserError if a file would be written twice, or written and read."""
    use = {normal(job.source): job for job in jobs}
    for job in jobs:
        for path in filter(None, (job.target, job.compare)):
            other = use.setdefault(normal(path), job)
            if other is not job:
                raise UserError(f'{path}: would be written for {job.source}, and is already the file of {other.source}')
        if len({normal(path) for path in job if path}) < 2 + bool(job.compare):
            raise UserError(f'{job.target}: input, output and comparison are different files')


def normal(path):
    return os.path.normcase(path.resolve())
