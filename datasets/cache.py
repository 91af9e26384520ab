"""Decoded images in one file that is mapped into memory, so that a crop reads no more than its own pixels."""

import hashlib
import json
import math
from pathlib import Path

import numpy as np
from tqdm import tqdm

from utils import UserError, atomic_path

READING = 2  # counts the ways in which images have been decoded: copies from before a change are not used


class MappedImages:
    """The images of `files`, a sequence of uint8 arrays `(H, W, 3)` that are views of the cache file.

    `read(file)` decodes one, the first time, and all of them again when a file has changed. The cache lies in
    `root/.cache`, or where that cannot be written, in `.cache` in the current folder. Workers are handed its path only.
    Raises UserError if it can be written in neither.
    """

    def __init__(self, root, files, read):
        stamps = [[str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns] for f in files]
        name = hashlib.sha256(json.dumps([READING, stamps]).encode()).hexdigest()[:16]
        folders, failed = (root / '.cache', Path('.cache')), []
        for folder in folders:
            self.file, index = (folder / name).resolve().with_suffix('.bin'), folder / f'{name}.json'
            try:
                if not index.is_file() or not self.file.is_file():
                    write(self.file, index, files, read)
                break
            except OSError as error:
                failed.append(f'{folder} ({error.strerror})')
        else:
            raise UserError(f'the decoded images can be kept neither in {" nor in ".join(failed)}')
        self.shapes = json.loads(index.read_text())
        self.offsets = np.cumsum([0, *map(math.prod, self.shapes)])

    def __len__(self):
        return len(self.shapes)

    def __getitem__(self, i):
        return np.memmap(self.file, np.uint8, 'r', int(self.offsets[i]), tuple(self.shapes[i]))


def write(file, index, files, read):
    """Write the pixels to `file` and their shapes to `index`, which is there only when all is."""
    file.parent.mkdir(exist_ok=True)
    shapes = []
    with atomic_path(file) as temporary, open(temporary, 'wb') as out:
        for source in tqdm(files, 'decoding', unit='image', delay=2, leave=False):
            image = read(source)
            shapes.append(image.shape)
            out.write(image.tobytes())
    with atomic_path(index) as temporary:
        temporary.write_text(json.dumps(shapes))
