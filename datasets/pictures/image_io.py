"""Single images as people have them: read to tensors, written back in their own kind."""

import contextlib
import io
import math
import os
import struct
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageCms

from datasets.pictures import exif as tags
from datasets.pictures import sixteen_bit
from datasets.pictures.row_files import CollectedFile, Header, PngFile, TiffFile
from datasets.pictures.transparency import over_white, with_colour_everywhere
from utils import UserError, about, atomic_path, nearest

Image.init()  # before, `Image.open` does not know all formats by name
READABLE = ['PNG', 'JPEG', 'WEBP', 'TIFF', 'BMP', 'GIF', 'PPM']
INPUT_LIMIT = 2 * Image.MAX_IMAGE_PIXELS  # type: ignore[operator]  # pixels; above it Pillow speaks of a bomb
LOST = {'xmp': 'XMP', 'XML:com.adobe.xmp': 'XMP', 'comment': 'comment', 'photoshop': 'IPTC', 'gamma': 'gamma'}


class Picture(NamedTuple):
    """An image with what decides how it is written."""

    rgb: torch.Tensor  # (3, H, W) float32 in [0, 1]; of a grey image, three equal channels
    alpha: torch.Tensor | None = None  # (1, H, W) float32 in [0, 1], 1 is opaque
    grey: bool = False
    bits: int = 8  # a sample: 8 or 16
    icc: bytes | None = None  # colour profile
    exif: tags.Exif | None = None
    dpi: tuple | None = None  # dots an inch, (x, y)


class Format(NamedTuple):
    name: str  # Pillow's
    longest: int  # side, in pixels
    file: type = CollectedFile
    options: dict = {}
    alpha: bool = False
    bits: int = 8  # a sample, at most
    icc: bool = True
    exif: float = math.inf  # bytes, at most
    dpi: bool = True


FORMATS = {
    '.png': Format('PNG', 2**31 - 1, PngFile, alpha=True, bits=16),
    '.jpg': Format('JPEG', 65500, options={'quality': 95, 'subsampling': 0}, exif=65500),
    '.webp': Format('WEBP', 16383, options={'lossless': True, 'exact': True}, alpha=True, dpi=False),
    '.tif': Format('TIFF', 2**31 - 1, TiffFile, alpha=True, bits=16),
    '.bmp': Format('BMP', 2**31 - 1, icc=False, exif=0),
}
FORMATS |= {'.jpeg': FORMATS['.jpg'], '.tiff': FORMATS['.tif']}


# ---------------------------------------------------------------- reading


def read_image(path):
    """Read the image file `path`: a `Picture`, turned upright by its EXIF orientation, and a list of notes on what of
    the file is not in it.

    Palette and CMYK images come as RGB, transparent colours as alpha, of several frames only the first. Where a picture
    is fully transparent, its colour is that of what is near: see `with_colour_everywhere`.
    Raises UserError for a file that is missing, no image, damaged, of more than `INPUT_LIMIT` pixels, or whose samples
    are neither of 8 nor of 16 bits.
    """
    if not os.path.isfile(path):
        raise UserError(f'{path}: {"not an image file" if os.path.exists(path) else "no such file"}')
    with warnings.catch_warnings(record=True) as caught, silent_stderr():
        warnings.simplefilter('always')
        warnings.simplefilter('ignore', Image.DecompressionBombWarning)
        try:
            with about(path):
                picture, notes = decode(path)
        except UserError:
            raise
        except Image.DecompressionBombError as error:
            raise UserError(f'{path}: larger than the limit of {INPUT_LIMIT:,} pixels') from error
        except Image.UnidentifiedImageError as error:
            raise UserError(f'{path}: not an image of a known format ({", ".join(READABLE)})') from error
        except MemoryError as error:
            raise UserError(f'{path}: needs more memory than there is') from error
        except Exception as error:  # on damaged files, decoders raise whatever comes to pass
            said = ' '.join(str(error).split()) or type(error).__name__
            raise UserError(f'{path}: unreadable image ({said})') from error
    return picture, notes + [' '.join(str(warning.message).split()) for warning in caught]


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
    """What `read_image` returns, for a file that may still turn out to be damaged."""
    notes = []
    with sixteen_bit.open_image(path, READABLE) as image:
        if math.prod(image.size) > INPUT_LIMIT:
            raise Image.DecompressionBombError
        frames = getattr(image, 'n_frames', 1)
        if sixteen_bit.raw_modes(image):
            samples, image = sixteen_bit.read(path, READABLE)
        else:
            samples, more = load(image)
            notes += more
    if frames > 1:
        notes.append(f'only the first of {frames} frames is used')
    samples = with_transparent_colour(samples, image)
    exif, orientation, lost = metadata(image, path)
    icc, said = profile(image)
    if lost:
        notes.append(f'not kept: {", ".join(lost)}')

    samples = upright(samples, orientation)
    peak = np.iinfo(samples.dtype).max
    planes = torch.from_numpy(np.array(samples.transpose(2, 0, 1), order='C')).float().div_(peak)  # (C, H, W)
    grey, alpha = len(planes) <= 2, planes[-1:] if len(planes) in (2, 4) else None
    planes = planes[:1] if grey else planes[:3]
    if alpha is not None:
        planes = with_colour_everywhere(planes, alpha)
    return Picture(
        planes.expand(3, -1, -1), alpha, grey, 16 if peak > 255 else 8, icc, exif, resolution(image)
    ), notes + said


def load(image):
    """An open PIL image as an array `(H, W, C)`, uint8 or uint16: grey, grey and alpha, RGB or RGBA; and notes."""
    depth = {'L;2': 85, 'L;4': 17}.get(image.tile[0][3], 1) if image.format == 'PNG' and image.tile else 1
    notes = []
    if image.format == 'TIFF' and sum((x1 - x0) * (y1 - y0) for _, (x0, y0, x1, y1), *_ in image.tile) < math.prod(
        image.size
    ):
        raise UserError('rows are missing')
    apart = sixteen_bit.tag(image, sixteen_bit.PLANAR) == 2
    reduced = sixteen_bit.has_16_bits(image) and not image.mode.startswith('I')
    if apart and image.mode in ('LA', 'La'):
        raise UserError('a TIFF with grey and alpha in planes apart cannot be read')
    if reduced:
        notes.append('of the 16 bits a sample of CMYK, and of TIFF with planes apart, 8 are read')
    if apart:
        sixteen_bit.through_libtiff(image, image.mode + ';16N' * reduced)
    inverted = sixteen_bit.has_16_bits(image) and sixteen_bit.tag(image, sixteen_bit.PHOTOMETRIC) == 0
    image.load()
    if isinstance(image.info.get('transparency'), int):
        image.info['transparency'] *= depth  # told before, as the samples, it is 8 bits wide
    if image.mode.startswith('I;16'):
        samples = np.asarray(image).astype(np.uint16)[..., None]
        return 65535 - samples if inverted else samples, notes
    if image.mode == 'I' and image.format == 'PPM':  # grey of up to 16 bits, which Pillow brings to 16
        return np.asarray(image).astype(np.uint16)[..., None], notes
    if image.mode in ('I', 'F'):
        raise UserError('samples of 32 bits; images of 8 and 16 bits can be read')
    if image.mode == 'CMYK':
        image, note = to_rgb(image)
        notes.append(note)
    coloured = image.mode not in ('1', 'L', 'LA', 'La')
    translucent = image.mode[-1] in 'Aa' or image.mode == 'P' and 'transparency' in image.info
    samples = np.asarray(image.convert(('RGB' if coloured else 'L') + 'A' * translucent))
    samples = samples.reshape(*samples.shape[:2], -1)
    if image.mode == 'P' and 'icc_profile' not in image.info and (samples[..., :1] == samples[..., :3]).all():
        samples = np.delete(samples, (1, 2), axis=-1)  # a palette of greys
    return samples, notes


def to_rgb(image):
    """A CMYK image as RGB, by its colour profile to sRGB if it has one that works; and a note."""
    profile = image.info.get('icc_profile')
    if profile:
        try:
            srgb = ImageCms.createProfile('sRGB')
            converted = ImageCms.profileToProfile(image, io.BytesIO(profile), srgb, outputMode='RGB')
            return converted, 'CMYK is converted to sRGB by its colour profile'
        except (ImageCms.PyCMSError, OSError, ImportError):
            pass
    return image.convert('RGB'), 'CMYK is converted to RGB without a colour profile'


def with_transparent_colour(samples, image):
    """`samples (H, W, C)` of grey or RGB with an alpha channel, 0 where a pixel is of the colour that the PIL `image`
    declares transparent, if it does."""
    colour = image.info.get('transparency')
    if colour is None or samples.shape[-1] in (2, 4):
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


def metadata(image, path):
    """Of a loaded PIL image, from the file `path`: its EXIF data or None, its orientation, and the names of what it has
    besides and is not kept, a list."""
    lost = [LOST[name] for name in image.info if name in LOST and image.info[name]]
    lost += ['text'] if set(getattr(image, 'text', ())) - set(LOST) else []
    lost += ['channels besides colour and alpha'] if 0 in (sixteen_bit.tag(image, sixteen_bit.EXTRA) or ()) else []
    exif, orientation = None, 1
    try:
        orientation = image.getexif().get(tags.ORIENTATION, 1)
        data = image.info.get('exif')
        if data or image.format == 'TIFF':
            with io.BytesIO(data.removeprefix(b'Exif\0\0')) if data else open(path, 'rb') as file:
                exif, more = tags.read(file)
            lost += more if data else [name for name in more if name != 'thumbnail']  # of a TIFF, the next page
    except Exception:  # on damaged data, as above
        lost.append('damaged EXIF data')
    return exif if exif and exif.tags else None, orientation, list(dict.fromkeys(lost))


def profile(image):
    """The colour profile of a PIL image, or None, and notes."""
    icc = image.info.get('icc_profile')
    if not icc or image.mode == 'CMYK':
        return None, []
    if len(icc) < 128 or icc[36:40] != b'acsp':
        return None, ['the colour profile is damaged and left out']
    return icc, []


def resolution(image):
    """Dots an inch, (x, y), that a PIL image tells, or None; 1 stands in for what is not known."""
    try:
        x, y = map(float, image.info['dpi'])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    return (x, y) if 1 < min(x, y) <= max(x, y) < 2**16 else None


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


@contextlib.contextmanager
def open_writer(path, size, picture):
    """Write an image of `size` (h, w) to `path`, completely or not at all, some rows at a time: gives a `Writer`.

    `picture`, of any size, tells the kind of the image: grey or colour, with or without alpha, bits, profile, EXIF data
    and resolution; the extension tells the format. PNG and TIFF take little memory, the others that of all rows.
    Raises UserError where it cannot be written.
    """
    check_output(path, size)
    kind = FORMATS[Path(path).suffix.lower()]
    header, notes = described(kind, size, picture)
    try:
        with atomic_path(path) as temporary:
            with open(temporary, 'wb') as file:
                with about(path):
                    rows_file = kind.file(file, header, kind.name, **kind.options)
                writer = Writer(rows_file, notes, picture.grey, kind.alpha)
                yield writer
                writer.close()
    except (OSError, ValueError, struct.error) as error:
        raise UserError(f'{path}: cannot be written ({getattr(error, "strerror", None) or error})') from error


class Writer:
    """Takes the rows of a picture in order. `notes`: what of the picture is not in the file."""

    def __init__(self, file, notes, grey, alpha):
        self.file, self.notes, self.grey, self.alpha = file, notes, grey, alpha
        self.done = 0

    def write(self, rows):
        """The next rows, `(C, k, w)`, clamped to [0, 1]: RGB, and alpha as a fourth if the picture has it."""
        planes, alpha = rows[:3].clamp(0, 1), rows[3:].clamp(0, 1)
        if self.grey:
            planes = planes.mean(0, keepdim=True)
        if len(alpha):
            planes = torch.cat([planes, alpha]) if self.alpha else over_white(planes, alpha)
        bits = self.file.header.bits
        samples = (planes * (2**bits - 1)).round().permute(1, 2, 0).cpu().numpy().astype(f'u{bits // 8}')
        self.file.write(samples)
        self.done += len(samples)

    def close(self):
        if self.done != self.file.header.size[0]:
            raise ValueError(f'{self.done} rows of {self.file.header.size[0]}')
        if isinstance(self.file, CollectedFile) and len(self.file.parts) > 1:
            self.notes.append(f'{self.file.kind} cannot be written in strips as PNG and TIFF: kept in memory')
        self.file.close()


def described(kind, size, picture):
    """The `Header` of an image of `size` (h, w) and the `Format` kind, and notes on what it cannot tell."""
    notes, bits, alpha = [], min(picture.bits, kind.bits), picture.alpha is not None
    if alpha and not kind.alpha:
        notes.append(f'{kind.name} has no alpha: laid over white')
    if bits < picture.bits:
        notes.append(f'{kind.name} is written with {bits} bits a sample, not {picture.bits} as PNG and TIFF would be')
    icc = picture.icc
    if icc and (not kind.icc or kind.name == 'WEBP' and icc[16:20] == b'GRAY'):  # WebP is RGB
        icc = None
        notes.append(f'{kind.name} is written without the colour profile')
    exif = picture.exif and tags.with_size(picture.exif, size)
    if exif and len(tags.encode(exif)) > kind.exif:
        exif = None
        notes.append(f'{kind.name} is written without the EXIF data')
    if picture.dpi and not kind.dpi:
        exif = tags.with_resolution(exif or tags.Exif('<', {}), picture.dpi)
    channels = (1 if picture.grey else 3) + (alpha and kind.alpha)
    return Header(tuple(size), channels, bits, icc, exif, picture.dpi), notes


def write_image(path, picture):
    """Write a `Picture`, clamped to [0, 1], to `path` completely or not at all; the extension tells the format.

    Returns a list of notes on what of the picture is not in the file. Raises UserError where it cannot be written.
    """
    with open_writer(path, picture.rgb.shape[-2:], picture) as writer:
        writer.write(picture.rgb if picture.alpha is None else torch.cat([picture.rgb, picture.alpha]))
    return writer.notes
