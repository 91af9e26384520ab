"""The formats of image files: which ones can be read and written, and which packages the others need."""

import contextlib
import importlib
import math
from typing import NamedTuple

from PIL import Image

from datasets.pictures.row_files import CollectedFile, PngFile, TiffFile

Image.init()  # without this, `Image.open` does not know all formats by name
with contextlib.suppress(ImportError):
    importlib.import_module('pillow_heif').register_heif_opener()
for plugin in ('pillow_jxl', 'pillow_avif'):
    with contextlib.suppress(ImportError):
        importlib.import_module(plugin)  # it registers itself


class Format(NamedTuple):
    """A format that can be written."""

    name: str  # Pillow's
    longest: int  # largest side, in pixels
    file: type = CollectedFile
    options: dict = {}
    alpha: bool = False
    grey: bool = True
    bits: int = 8  # per sample, at most
    icc: bool = True
    labels: bool = False  # whether it holds those of `datasets/pictures/colour.py`
    exif: float = math.inf  # bytes of EXIF data, at most
    dpi: bool = True


class Optional(NamedTuple):
    """A format that Pillow reads only if something else is installed."""

    name: str  # what people call it
    suffixes: tuple[str, ...]
    needs: str


OPTIONAL = {  # by Pillow's names
    'HEIF': Optional('HEIC', ('.heic', '.heif', '.hif', '.heics', '.heifs'), 'the package pillow-heif'),
    'AVIF': Optional('AVIF', ('.avif', '.avifs'), 'Pillow 11.3 or newer, or the package pillow-avif-plugin'),
    'JXL': Optional('JPEG XL', ('.jxl',), 'the package pillow-jxl-plugin'),
}
# Pillow without AVIF registers an opener for it all the same, which only says so.
LACKING = {name: kind for name, kind in OPTIONAL.items() if name not in (Image.SAVE if name == 'AVIF' else Image.OPEN)}
READABLE = ['PNG', 'JPEG', 'WEBP', 'TIFF', 'BMP', 'GIF', 'PPM', *(name for name in OPTIONAL if name not in LACKING)]

FORMATS = {
    '.png': Format('PNG', 2**31 - 1, PngFile, alpha=True, bits=16, labels=True),
    '.jpg': Format('JPEG', 65500, options={'quality': 95, 'subsampling': 0}, exif=65500),
    '.webp': Format('WEBP', 16383, options={'lossless': True, 'exact': True}, alpha=True, grey=False, dpi=False),
    '.tif': Format('TIFF', 2**31 - 1, TiffFile, alpha=True, bits=16),
    '.bmp': Format('BMP', 2**31 - 1, icc=False, exif=0),
}
if 'AVIF' not in LACKING:
    quality = {'quality': 95, 'subsampling': '4:4:4'}
    FORMATS['.avif'] = Format('AVIF', 65536, options=quality, alpha=True, grey=False, dpi=False)
FORMATS |= {f'.{name}': FORMATS['.jpg'] for name in ('jpeg', 'jpe', 'jfif')} | {'.tiff': FORMATS['.tif']}


def readable_suffixes() -> set[str]:
    """The extensions, in lower case, of the formats that are read."""
    return {suffix for suffix, name in Image.registered_extensions().items() if name in READABLE}


def what_is_lacking(begin: bytes) -> str | None:
    """What is needed to read a file that begins with these bytes; None if its format can be read or is not known."""
    brands = [begin[8:12], *(begin[at : at + 4] for at in range(16, min(int.from_bytes(begin[:4], 'big'), 256), 4))]
    if begin[4:8] == b'ftyp' and {b'avif', b'avis'} & set(brands):
        name = 'AVIF'
    elif begin[4:8] == b'ftyp' and {b'heic', b'heix', b'hevc', b'hevx', b'heim', b'heis', b'mif1'} & set(brands):
        name = 'HEIF'
    elif begin.startswith((b'\xff\x0a', b'\0\0\0\x0cJXL \r\n\x87\n')):
        name = 'JXL'
    else:
        return None
    return words(LACKING[name]) if name in LACKING else None


def bits_in(begin: bytes) -> int:
    """Bits per sample of an AVIF or HEIC file that begins with these bytes; 8 if they do not say.

    Source: AV1 Codec ISO Media File Format Binding, section 2.3.3; ISO/IEC 14496-15, section 8.3.3.1.
    """
    at = begin.find(b'av1C') + 6
    if 6 <= at < len(begin):
        return 8 + 2 * (begin[at] >> 6 & 1) + 2 * (begin[at] >> 5 & 1)
    at = begin.find(b'hvcC') + 21
    return 8 + (begin[at] & 7) if 21 <= at < len(begin) else 8


def words(kind: Optional) -> str:
    """What a format of `LACKING` needs, in words."""
    return f'{kind.name} needs {kind.needs}'
