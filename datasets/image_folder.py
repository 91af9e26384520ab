"""Datasets that read images from folders, as they are; LR/HR pairs are made in `wrappers.py`."""

import json
import re
from pathlib import Path

import numpy as np
from PIL import Image

from datasets.arguments import check_counts, check_paths
from datasets.cache import MappedImages
from datasets.registry import register
from utils import UserError, nearest

CACHES = ('none', 'in_memory', 'bin')


@register('image-folder')
class ImageFolder:
    """The images of one folder in natural order (`img_2` before `img_10`), without subfolders, hidden and other files.

    `split_file`: a text file with one file name a line, or a JSON list of them, to take instead of all; `first_k`: only
    the first k; `repeat`: the length is that many times the images. `cache`: 'none' decodes at every access,
    'in_memory' once, 'bin' once into a file that is then mapped into memory (`datasets/cache.py`): all workers share
    it, and a crop reads its own pixels only.

    An item is a uint8 array `(H, W, 3)`, RGB in 0..255: grey gives three equal channels, alpha is dropped.
    Raises UserError, naming folder or file, for what is missing, empty or no image.
    """

    def __init__(self, root_path, split_file=None, first_k=None, repeat=1, cache='none'):
        if cache not in CACHES:
            raise UserError(f'image-folder: unknown cache {cache!r}{nearest(cache, CACHES)}')
        check_paths('image-folder', root_path=root_path, split_file='' if split_file is None else split_file)
        check_counts('image-folder', repeat=repeat, first_k=1 if first_k is None else first_k)
        self.root = Path(root_path)
        self.files = (list_images(self.root) if split_file is None else listed_images(self.root, split_file))[:first_k]
        self.repeat = repeat
        self.images = None
        if cache == 'in_memory':
            self.images = [read_rgb(file) for file in self.files]
        elif cache == 'bin':
            self.images = MappedImages(self.root, self.files, read_rgb)

    def __len__(self):
        return len(self.files) * self.repeat

    def __getitem__(self, i):
        i = self.number(i)
        return read_rgb(self.files[i]) if self.images is None else self.images[i]

    def name(self, i):
        """The image's file name without its ending."""
        return self.files[self.number(i)].stem

    def size(self, i):
        """(h, w) of image `i`, which need not be decoded for it."""
        i = self.number(i)
        return read_size(self.files[i]) if self.images is None else self.images[i].shape[:2]

    def number(self, i):
        if not 0 <= i < len(self):
            raise IndexError(i)
        return i % len(self.files)


@register('paired-image-folders')
class PairedImageFolders:
    """LR images in `root_path_1` and HR images in `root_path_2`, both as in `ImageFolder`, paired by name.

    An LR file has the HR file's name, or that with a scale behind it (`baby.png`, `babyx2.png`, `baby_x2.png`).
    An item is `(lr, hr)`. Raises UserError, saying which files and how many, if the folders do not match.
    """

    def __init__(self, root_path_1, root_path_2, split_file=None, first_k=None, repeat=1, cache='none'):
        check_paths('paired-image-folders', root_path_1=root_path_1, root_path_2=root_path_2)
        check_counts('paired-image-folders', first_k=1 if first_k is None else first_k)
        self.hr = ImageFolder(root_path_2, split_file, None, repeat, cache)
        self.lr = ImageFolder(root_path_1, None, None, repeat, cache)
        scale = re.compile(r'_?x\d+(\.\d+)?$', re.IGNORECASE)
        by_name = {scale.sub('', file.stem): k for k, file in enumerate(self.lr.files)}
        by_name.update({file.stem: k for k, file in enumerate(self.lr.files)})
        lacking = [file.name for file in self.hr.files if file.stem not in by_name]
        if lacking:
            raise UserError(
                f'{self.lr.root}: no LR image for {len(lacking)} of the {len(self.hr.files)} HR images of '
                f'{self.hr.root}: {some(lacking)}'
            )
        if split_file is None and len(self.lr.files) != len(self.hr.files):
            used = {by_name[file.stem] for file in self.hr.files}
            extra = [file.name for k, file in enumerate(self.lr.files) if k not in used]
            raise UserError(
                f'{self.hr.root}: no HR image for {len(extra)} of the {len(self.lr.files)} LR images of '
                f'{self.lr.root}: {some(extra)}'
            )
        self.pairs = [(by_name[file.stem], k) for k, file in enumerate(self.hr.files)][:first_k]
        self.repeat = repeat

    def __len__(self):
        return len(self.pairs) * self.repeat

    def __getitem__(self, i):
        lr, hr = self.pairs[i % len(self.pairs)] if 0 <= i < len(self) else self.pairs[len(self)]
        return self.lr[lr], self.hr[hr]

    def name(self, i):
        """The HR image's file name without its ending."""
        return self.hr.name(self.pairs[i % len(self.pairs)][1])


def list_images(folder):
    """The image files of a folder in natural order. Raises UserError if it is missing or has none."""
    if not folder.is_dir():
        raise UserError(f'{folder}: no such folder')
    endings = Image.registered_extensions()
    files = [f for f in folder.iterdir() if f.is_file() and not f.name.startswith('.') and f.suffix.lower() in endings]
    if not files:
        raise UserError(f'{folder}: no images in this folder')
    return sorted(files, key=lambda f: [int(part) if part.isdecimal() else part for part in re.split(r'(\d+)', f.name)])


def listed_images(folder, split_file):
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
            f'{folder}: lacks {len(missing)} of the {len(names)} images that {split_file} names: {some(missing)}'
        )
    return [folder / name for name in names]


def some(names):
    """The first three of the names, in words."""
    return f'{", ".join(names[:3])}{" ..." if names[3:] else ""}'


def read_rgb(file, name=None):
    """`(H, W, 3)` uint8, RGB, of the image in `file`, a path or an open file, which an error calls `name`, if given.

    Raises UserError if it is not a whole image.
    """
    try:
        with Image.open(file) as image:
            if image.mode in ('I', 'I;16', 'I;16B', 'F'):  # 16 bits: PIL's own conversion would clip
                wide = np.asarray(image).astype(np.float64)
                return np.repeat(np.floor(wide / 257 + 0.5).clip(0, 255).astype(np.uint8)[..., None], 3, axis=-1)
            return np.asarray(image.convert('RGB'))
    except Image.UnidentifiedImageError as error:
        raise UserError(f'{name or file}: not an image of a known format') from error
    except FileNotFoundError as error:
        raise UserError(f'{name or file}: no such file') from error
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise UserError(f'{name or file}: not an image that can be read ({error})') from error


def read_size(file):
    """(h, w) of an image, of which no more than the beginning is read. Raises UserError if it is none."""
    try:
        with Image.open(file) as image:
            return image.height, image.width
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f'{file}: not an image that can be read ({error})') from error
