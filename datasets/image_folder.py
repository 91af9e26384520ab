"""Datasets that read images from folders, as they are; LR/HR pairs are made in `wrappers.py`."""

import json
import os
import re
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image

from datasets.cache import MappedImages
from datasets.pictures.formats import LACKING, READABLE, words
from datasets.pictures.image_io import read_image
from datasets.registry import register
from utils import Note, UserError, check_paths, check_whole, distinct_names, suggestion

CACHES = ('none', 'in_memory', 'bin')


@register('image-folder')
class ImageFolder:
    """The images of one folder in natural order (`img_2` before `img_10`), without subfolders and hidden files. A
    `utils.Note` says how many other files are left out.

    `split_file`: a text file with one file name per line, or a JSON list of them; only these images are used.
    `first_k`: only the first k images are used. `repeat`: how many times the dataset goes through its images. `cache`:
    'none' decodes at every access, 'in_memory' once, 'bin' once into a file that is then mapped into memory
    (`datasets/cache.py`): all workers share it, and a crop reads its own pixels only.

    An item is a uint8 array `(H, W, 3)`, RGB in 0..255, as `read_rgb` gives it.
    Raises UserError, naming the folder or file, for what is missing, empty, damaged or unreadable.
    """

    def __init__(
        self,
        root_path: str | Path,
        split_file: str | Path | None = None,
        first_k: int | None = None,
        repeat: int = 1,
        cache: str = 'none',
    ):
        if cache not in CACHES:
            raise UserError(f'image-folder: unknown cache {cache!r}{suggestion(cache, CACHES)}')
        check_paths('image-folder', root_path=root_path, split_file='' if split_file is None else split_file)
        check_whole('image-folder', repeat=repeat, first_k=1 if first_k is None else first_k)
        self.root = Path(root_path)
        self.files = (list_images(self.root) if split_file is None else listed_images(self.root, split_file))[:first_k]
        others = [] if split_file is not None else other_files(self.root)
        if others:
            warnings.warn(f'{self.root}: left out {kinds(others)}', Note, stacklevel=2)
        paths = [os.path.relpath(file, self.root) for file in self.files]
        names = distinct_names(paths)
        self.names = [names[path].replace(os.sep, '_') for path in paths]
        self.repeat = repeat
        self.images: list | MappedImages | None = None
        if cache == 'in_memory':
            self.images = [read_rgb(file) for file in self.files]
        elif cache == 'bin':
            listed = None if split_file is None else str(Path(split_file).resolve())
            self.images = MappedImages(self.root, self.files, read_rgb, (listed, first_k))

    def __len__(self) -> int:
        return len(self.files) * self.repeat

    def __getitem__(self, i: int) -> np.ndarray:
        i = self.number(i)
        return read_rgb(self.files[i]) if self.images is None else self.images[i]

    def name(self, i: int) -> str:
        """The image's file name, without its extension unless another image would then have the same name."""
        return self.names[self.number(i)]

    def size(self, i: int) -> tuple[int, int]:
        """(h, w) of image `i`, without decoding it where possible."""
        i = self.number(i)
        return read_size(self.files[i]) if self.images is None else self.images[i].shape[:2]

    def number(self, i: int) -> int:
        """Which of the files is image `i`. Raises IndexError if there is none."""
        if not 0 <= i < len(self):
            raise IndexError(i)
        return i % len(self.files)


@register('paired-image-folders')
class PairedImageFolders:
    """LR images in `root_path_1` and HR images in `root_path_2`, both as in `ImageFolder`, paired by name.

    An LR file has the HR file's name, which a scale may follow (`baby.png`, `babyx2.png`, `baby_x2.png`); the extension
    matters only if names differ in nothing else. An item is `(lr, hr)`.
    Raises UserError, saying which files and how many, if the folders do not match.
    """

    def __init__(
        self,
        root_path_1: str | Path,
        root_path_2: str | Path,
        split_file: str | Path | None = None,
        first_k: int | None = None,
        repeat: int = 1,
        cache: str = 'none',
    ):
        check_paths('paired-image-folders', root_path_1=root_path_1, root_path_2=root_path_2)
        check_whole('paired-image-folders', first_k=1 if first_k is None else first_k)
        self.hr = ImageFolder(root_path_2, split_file, None, repeat, cache)
        self.lr = ImageFolder(root_path_1, None, None, repeat, cache)
        found = partners(self.hr.files, self.lr.files)
        lacking = [file.name for file, k in zip(self.hr.files, found) if k is None]
        numbers = [k for k in found if k is not None]
        if lacking:
            raise UserError(
                f'{self.lr.root}: no LR image for {len(lacking)} of the {len(self.hr.files)} HR images of '
                f'{self.hr.root}: {first_few(lacking)}'
            )
        owners: dict[int, dict] = {}
        for file, k in zip(self.hr.files, numbers):
            owners.setdefault(k, {})[file.name] = file
        for k, files in owners.items():
            if len(files) > 1:
                raise UserError(
                    f'{self.hr.root}: {first_few(list(files))} would all belong to the LR image '
                    f'{self.lr.files[k].name} of {self.lr.root}'
                )
        if split_file is None and len(self.lr.files) != len(self.hr.files):
            extra = [file.name for k, file in enumerate(self.lr.files) if k not in numbers]
            raise UserError(
                f'{self.hr.root}: no HR image for {len(extra)} of the {len(self.lr.files)} LR images of '
                f'{self.lr.root}: {first_few(extra)}'
            )
        self.pairs = [(lr, hr) for hr, lr in enumerate(numbers)][:first_k]
        self.repeat = repeat

    @property
    def folders(self) -> dict[str, ImageFolder]:
        """What the pairs are made of, by name."""
        return {'LR': self.lr, 'HR': self.hr}

    def __len__(self) -> int:
        return len(self.pairs) * self.repeat

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        lr, hr = self.numbers(i)
        return self.lr[lr], self.hr[hr]

    def name(self, i: int) -> str:
        """The HR image's name, as in `ImageFolder`."""
        return self.hr.name(self.numbers(i)[1])

    def pair_size(self, i: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """(h, w) of the LR and of the HR image of pair `i`, which need not be decoded for it."""
        lr, hr = self.numbers(i)
        return self.lr.size(lr), self.hr.size(hr)

    def numbers(self, i: int) -> tuple[int, int]:
        if not 0 <= i < len(self):
            raise IndexError(i)
        return self.pairs[i % len(self.pairs)]


def partners(files: list[Path], others: list[Path]) -> list[int | None]:
    """For each of the `files` the number of that one of `others` which has its name, or that with a scale behind it, or
    either with another ending; None if there is none."""
    scale = re.compile(r'_?x\d+(\.\d+)?$', re.IGNORECASE)
    number = {scale.sub('', file.stem): k for k, file in enumerate(others)}
    number.update({scale.sub('', file.stem) + file.suffix: k for k, file in enumerate(others)})
    number.update({file.stem: k for k, file in enumerate(others)})
    number.update({file.name: k for k, file in enumerate(others)})
    return [number.get(file.name, number.get(file.stem)) for file in files]


def is_image_name(name: str) -> bool:
    """Whether a file's extension is that of a format that `read_image` reads."""
    return Image.registered_extensions().get(Path(name).suffix.lower()) in READABLE


def visible_files(folder: Path) -> list[Path]:
    """The files of a folder that are not hidden. Raises UserError if it is missing or cannot be read."""
    if not folder.is_dir():
        raise UserError(f'{folder}: no such folder')
    try:
        return [file for file in folder.iterdir() if not file.name.startswith('.') and file.is_file()]
    except OSError as error:
        raise UserError(f'{folder}: cannot be read ({error.strerror})') from error


def list_images(folder: Path) -> list[Path]:
    """The files of a folder that are images by their names, in natural order. Raises UserError if the folder is missing
    or has none."""
    files = [file for file in visible_files(folder) if is_image_name(file.name)]
    if not files:
        others = other_files(folder)
        raise UserError(
            f'{folder}: no images in this folder' + (f' but {kinds(others)}{packages(others)}' if others else '')
        )
    return sorted(files, key=lambda f: [int(part) if part.isdecimal() else part for part in re.split(r'(\d+)', f.name)])


def other_files(folder: Path) -> list[Path]:
    """The files of a folder that are not images by their names."""
    return [file for file in visible_files(folder) if not is_image_name(file.name)]


def kinds(files: list[Path]) -> str:
    """'3 other files (.pdf, .txt)'."""
    endings = sorted({file.suffix.lower() or 'no ending' for file in files})
    return f'{len(files)} other file{"s" * (len(files) > 1)} ({first_few(endings)})'


def packages(files: list[Path]) -> str:
    """'; HEIC needs the package pillow-heif' and the like, for the packages that could read some of these files."""
    endings = {file.suffix.lower() for file in files}
    return ''.join(f'; {words(kind)}' for kind in LACKING.values() if endings & {*kind.suffixes})


def listed_images(folder: Path, split_file: str | Path) -> list[Path]:
    """The files that `split_file` names, in its order. Raises UserError if one is missing."""
    try:
        text = Path(split_file).read_text(encoding='utf-8')
        lines = [line.strip() for line in text.splitlines()]
        names = json.loads(text) if Path(split_file).suffix == '.json' else [line for line in lines if line]
    except OSError as error:
        raise UserError(f'{split_file}: cannot read the list of images ({error.strerror})') from error
    except ValueError as error:
        raise UserError(f'{split_file}: not a list of file names ({error})') from error
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise UserError(f'{split_file}: not a list of file names')
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f'{folder}: lacks {len(missing)} of the {len(names)} images that {split_file} names: {first_few(missing)}'
        )
    return [folder / name for name in names]


def first_few(names: list[str]) -> str:
    """The first three of the names, in words."""
    return f'{", ".join(names[:3])}{" ..." if names[3:] else ""}'


def read_rgb(file: str | Path | BinaryIO, name: str | None = None) -> np.ndarray:
    """The image in `file`, a path or an open file, as `(H, W, 3)` uint8, RGB in 0..255. Errors call it `name`.

    It is read as the demo reads it (`read_image`): upright, grey as three equal channels, samples of more than 8 bits
    rounded to 8. Alpha is dropped. Raises UserError as `read_image` does.
    """
    rgb = read_image(file, name)[0].rgb
    return np.ascontiguousarray((rgb * 255).round_().byte().permute(1, 2, 0).numpy())


def read_size(file: str | Path) -> tuple[int, int]:
    """(h, w) of an image as `read_rgb` gives it. Only the beginning of the file is read where that is enough. Raises
    UserError as `read_rgb` does."""
    try:
        with Image.open(file, formats=READABLE) as image:
            told = image.getexif() if image.format != 'PNG' or 'exif' in image.info else {}
            if told.get(ExifTags.Base.Orientation) not in (5, 6, 7, 8):
                return image.height, image.width
            if image.format != 'TIFF':  # whose size some versions of Pillow give already turned
                return image.width, image.height
    except Exception:  # decoders raise anything on damaged files; reading the file says what is wrong
        pass
    height, width = read_rgb(file).shape[:2]
    return height, width
