"""Single images as people have them: read to tensors, written back in their own kind."""
import contextlib
import os
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from datasets import png16
from utils import UserError, atomic_path, nearest

Image.init()                                    # before, `Image.open` does not know all formats by name
READABLE = ['PNG', 'JPEG', 'WEBP', 'TIFF', 'BMP', 'GIF']
INPUT_LIMIT = 2 * Image.MAX_IMAGE_PIXELS        # pixels; above it Pillow speaks of a bomb
ORIENTATION = 0x0112                            # the EXIF tag


class Picture(NamedTuple):
    """An image with what decides how it is written."""
    rgb: torch.Tensor                       # (3, H, W) float32 in [0, 1]; of a grey image, three equal channels
    alpha: torch.Tensor | None = None       # (1, H, W) float32 in [0, 1], 1 is opaque
    grey: bool = False
    bits: int = 8                           # a sample: 8 or 16
    icc: bytes | None = None                # colour profile


class Format(NamedTuple):
    name: str                               # Pillow's
    longest: int                            # side, in pixels
    alpha: bool
    options: dict


FORMATS = {
    '.png': Format('PNG', 2 ** 31 - 1, True, {}),
    '.jpg': Format('JPEG', 65500, False, {'quality': 95, 'subsampling': 0}),
    '.webp': Format('WEBP', 16383, True, {'lossless': True}),
    '.tif': Format('TIFF', 2 ** 31 - 1, True, {'compression': 'tiff_deflate'}),
    '.bmp': Format('BMP', 2 ** 31 - 1, False, {}),
}
FORMATS |= {'.jpeg': FORMATS['.jpg'], '.tiff': FORMATS['.tif']}


# ---------------------------------------------------------------- reading

def read_image(path):
    """Read the image file `path`: a `Picture`, turned upright by its EXIF orientation, and a list of notes on what of
    the file is not in it.

    Palette and CMYK images come as RGB, transparent colours as alpha, of several frames only the first.
    Raises UserError for a file that is missing, no image, damaged, of more than `INPUT_LIMIT` pixels, or whose samples
    are neither of 8 nor of 16 bits.
    """
    if not os.path.isfile(path):
        raise UserError(f'{path}: {"not an image file" if os.path.exists(path) else "no such file"}')
    with warnings.catch_warnings(record=True) as caught, silent_stderr():
        warnings.simplefilter('always')
        warnings.simplefilter('ignore', Image.DecompressionBombWarning)
        try:
            picture, notes = decode(path)
        except UserError as error:
            raise UserError(f'{path}: {error}') from error
        except Image.DecompressionBombError as error:
            raise UserError(f'{path}: larger than the limit of {INPUT_LIMIT:,} pixels') from error
        except Image.UnidentifiedImageError as error:
            raise UserError(f'{path}: not an image of a known format ({", ".join(READABLE)})') from error
        except Exception as error:          # on damaged files, decoders raise whatever comes to pass
            raise UserError(f'{path}: unreadable image ({error or type(error).__name__})') from error
    return picture, notes + [str(warning.message) for warning in caught]


@contextlib.contextmanager
def silent_stderr():
    """What C libraries write to stderr goes nowhere: libtiff tells there, past Pillow, what Pillow raises as well."""
    kept = os.dup(2)
    try:
        with open(os.devnull, 'wb') as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def decode(path):
    """""What `read_image` returns, for a file that may still turn out to be damaged."""
    notes, reduced = [], False
    with Image.open(path, formats=READABLE) as image:
        frames = getattr(image, 'n_frames', 1)
        deep = png16.is_png16(image)
        if deep:
            samples, image = png16.read(path)
            samples = with_transparent_colour(samples, image.info.get('transparency'))
        else:
            reduced = image.format == 'TIFF' and image.mode in ('RGB', 'RGBA') and image.tag_v2.get(258, (8,))[0] > 8
            image.load()
            samples = samples_of(image)
    if frames > 1:
        notes.append(f'only the first of {frames} frames is used')
    if reduced:
        notes.append('the 16-bit colours of a TIFF are read with 8 bits, not 16 as those of a PNG would be')
    icc = image.info.get('icc_profile')
    if icc and image.mode == 'CMYK':
        icc = None
        notes.append('CMYK is converted to RGB without its colour profile')

    samples = upright(samples, image.getexif().get(ORIENTATION))
    peak = np.iinfo(samples.dtype).max
    planes = torch.from_numpy(samples.astype(np.float32) / peak).permute(2, 0, 1).contiguous()     # (C, H, W)
    grey, has_alpha = len(planes) <= 2, len(planes) in (2, 4)
    rgb = planes[:1].repeat(3, 1, 1) if grey else planes[:3]
    return Picture(rgb, planes[-1:] if has_alpha else None, grey, 16 if peak > 255 else 8, icc), notes


def samples_of(image):
    """A loaded PIL image as an array `(H, W, C)`, uint8 or uint16: grey, grey and alpha, RGB or RGBA."""
    if image.mode.startswith('I;16'):
        return np.asarray(image).astype(np.uint16)[..., None]
    if image.mode in ('I', 'F'):
        raise UserError('samples of 32 bits; images of 8 and 16 bits can be read')
    mode = 'L' if image.mode in ('1', 'L', 'LA') else 'RGB'
    samples = np.asarray(image.convert(mode + 'A' if image.has_transparency_data else mode))
    return samples.reshape(*samples.shape[:2], -1)


def with_transparent_colour(samples, colour):
    """`samples (H, W, C)` with an alpha channel, 0 where a pixel is of the `colour` that a PNG may declare transparent;
    `colour` None: as they are."""
    if colour is None:
        return samples
    opaque = (samples != colour).any(-1, keepdims=True)
    return np.concatenate([samples, (opaque * np.iinfo(samples.dtype).max).astype(samples.dtype)], axis=-1)


def upright(samples, orientation):
    """`samples (H, W, C)`, stored in the EXIF `orientation` 1..8 (anything else counts as 1), upright."""
    if orientation in (5, 6, 7, 8):
        samples = samples.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        samples = samples[::-1]
    if orientation in (2, 3, 6, 7):
        samples = samples[:, ::-1]
    return samples


# ---------------------------------------------------------------- writing

def check_output(path, size=(1, 1)):
    """Raise UserError, before any work, if an image of `size` (h, w) could not be written to `path`."""
    path = Path(path)
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise UserError(f'{path}: no format has the extension {path.suffix!r}{nearest(path.suffix.lower(), FORMATS)}')
    if max(size) > kind.longest:
        raise UserError(f'{path}: {kind.name} holds at most {kind.longest} pixels a side, not {size[0]} x {size[1]}')
    if not path.parent.is_dir():
        raise UserError(f'{path}: there is no folder {path.parent}')
    if path.is_dir():
        raise UserError(f'{path}: is a folder')
    if not os.access(path.parent, os.W_OK):
        raise UserError(f'{path}: the folder {path.parent} cannot be written to')


def write_image(path, picture):
    """Write a `Picture`, clamped to [0, 1], to `path` completely or not at all; the extension tells the format.

    Returns a list of notes on what of the picture is not in the file. Raises UserError where it cannot be written.
    """
    check_output(path, picture.rgb.shape[-2:])
    kind = FORMATS[Path(path).suffix.lower()]
    notes = []
    planes = picture.rgb.mean(0, keepdim=True) if picture.grey else picture.rgb
    if picture.alpha is not None and kind.alpha:
        planes = torch.cat([planes, picture.alpha])
    elif picture.alpha is not None:
        planes = over_white(planes, picture.alpha)
        notes.append(f'{kind.name} has no alpha: laid over white')
    deep = picture.bits == 16 and kind.name == 'PNG'
    if picture.bits == 16 and not deep:
        notes.append(f'{kind.name} is written with 8 bits a sample, not 16 as PNG would be')
    if picture.icc and kind.name == 'BMP':
        notes.append('BMP is written without the colour profile')
    dtype = np.uint16 if deep else np.uint8
    samples = (planes.clamp(0, 1) * np.iinfo(dtype).max).round().permute(1, 2, 0).cpu().numpy().astype(dtype)
    try:
        with atomic_path(path) as temporary:
            if deep:
                temporary.write_bytes(png16.encode(samples, picture.icc))
            else:
                image = Image.fromarray(samples.squeeze(2) if samples.shape[2] == 1 else samples)
                image.save(temporary, kind.name, icc_profile=picture.icc, **kind.options)
    except OSError as error:
        raise UserError(f'{path}: cannot be written ({error.strerror or error})') from error
    return notes


def over_white(planes, alpha):
    """`planes (C, H, W)` seen through `alpha (1, H, W)` before white."""
    return planes * alpha + (1 - alpha)
