"""Reading and writing image files, with everything in them that can be kept."""

import contextlib
import io
import math
import os
import re
import struct
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import tifffile
import torch
from PIL import Image, PngImagePlugin

from datasets.pictures import exif as tags
from datasets.pictures import png, tiff, webp
from datasets.pictures.colour import bmp_colours, cmyk_to_rgb, container_labels, png_labels, unlike_srgb
from datasets.pictures.formats import FORMATS, LACKING, READABLE, Format, bits_in, what_is_lacking, words
from datasets.pictures.jpeg import without_its_end
from datasets.pictures.row_files import CollectedFile, Header, PngFile, TiffFile
from datasets.pictures.transparency import over_white, with_colour_everywhere
from utils import UserError, atomic_path, error_prefix, one_line, suggestion

INPUT_LIMIT = 2 * Image.MAX_IMAGE_PIXELS  # type: ignore[operator]  # pixels; above it Pillow suspects a bomb
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = 2**28  # most bytes of unpacked text and profiles
SIGNATURES = {'PNG': png.SIGNATURE, 'JPEG': b'\xff\xd8\xff', 'GIF': b'GIF8', 'BMP': b'BM', 'WebP': webp.SIGNATURE}
PPM = re.compile(rb'P[36](?:\s|#[^\n]*\n)+\d+(?:\s|#[^\n]*\n)+\d+(?:\s|#[^\n]*\n)+(\d{1,9})')  # its largest value
WITHOUT_END = 'the end of the file is missing; all of the image is there'
BEGIN = 2**16  # bytes of a file that are read to find its kind
ROWS = 64  # that are made samples at a time
LARGE = 2**29  # bytes of samples, of which it is worth a note that they are kept in memory
LOST = {'xmp': 'XMP', 'XML:com.adobe.xmp': 'XMP', 'comment': 'comment', 'photoshop': 'IPTC'}


class Picture(NamedTuple):
    """An image and all that decides how it is written."""

    rgb: torch.Tensor  # (3, H, W) float32 in [0, 1]; of a grey image, three equal channels
    alpha: torch.Tensor | None = None  # (1, H, W) float32 in [0, 1], 1 is opaque
    grey: bool = False
    bits: int = 8  # per sample: 8 or 16
    icc: bytes | None = None  # colour profile
    exif: tags.Exif | None = None
    dpi: tuple | None = None  # dots per inch, (x, y)
    labels: dict = {}  # that describe the colours besides the profile, see `datasets/pictures/colour.py`


class Decoded(NamedTuple):
    """The content of an image file."""

    samples: np.ndarray  # (H, W, C) uint8 or uint16: grey, grey and alpha, RGB or RGBA, as stored, not turned
    orientation: int = 1  # from the EXIF data: 1..8, anything else counts as 1
    icc: bytes | None = None
    exif: tags.Exif | None = None
    dpi: tuple | None = None
    labels: dict = {}
    notes: list = []  # on what was in the file and is not kept


# ---------------------------------------------------------------- reading


def read_image(file: str | os.PathLike | BinaryIO, name: str | None = None) -> tuple[Picture, list[str]]:
    """Read the image in `file`: a `Picture`, turned upright by its EXIF orientation, and a list of notes on what was in
    the file and is not kept.

    Palette and CMYK images become RGB, and transparent colours become alpha. Only the first of several frames is read.
    Where an image is fully transparent, it gets the colour of what is near: see `with_colour_everywhere`.
    Arguments and errors are those of `read_samples`.
    """
    decoded = read_samples(file, name)
    samples = upright(decoded.samples, decoded.orientation)
    peak = np.iinfo(samples.dtype).max
    planes = torch.from_numpy(np.array(samples.transpose(2, 0, 1), order='C')).float().div_(peak)  # (C, H, W)
    grey, alpha = len(planes) <= 2, planes[-1:] if len(planes) in (2, 4) else None
    planes = planes[:1] if grey else planes[:3]
    if alpha is not None:
        planes = with_colour_everywhere(planes, alpha)
    bits = 16 if peak > 255 else 8
    kept = decoded.icc, decoded.exif, decoded.dpi, decoded.labels
    return Picture(planes.expand(3, -1, -1), alpha, grey, bits, *kept), decoded.notes


def read_samples(file: str | os.PathLike | BinaryIO, name: str | None = None) -> Decoded:
    """Decode the image in `file`, a path or an open binary file. Errors call it `name`, if that is given.

    Raises UserError for a file that is missing, damaged, not an image, larger than `INPUT_LIMIT` pixels or of a format
    that needs a package that is not installed, and for samples that are not whole numbers of at most 16 bits.
    """
    name = name or str(file)
    with warnings.catch_warnings(record=True) as caught, contextlib.ExitStack() as stack:
        warnings.simplefilter('always')
        warnings.simplefilter('ignore', Image.DecompressionBombWarning)
        try:
            with error_prefix(name):
                if isinstance(file, (str, os.PathLike)):
                    file = stack.enter_context(opened(file))
                decoded = decode(file)
        except UserError:
            raise
        except Image.DecompressionBombError as error:
            raise UserError(f'{name}: larger than the limit of {INPUT_LIMIT:,} pixels') from error
        except MemoryError as error:
            raise UserError(f'{name}: needs more memory than there is') from error
        except Exception as error:  # decoders raise errors of any kind on damaged files
            said = one_line(error) or type(error).__name__
            raise UserError(f'{name}: unreadable image ({said})') from error
    warned = (one_line(warning.message) for warning in caught)
    return decoded._replace(notes=list(dict.fromkeys([*decoded.notes, *warned])))


def opened(path: str | os.PathLike) -> BinaryIO:
    """The file at `path`, open for reading. Raises UserError if it cannot be opened."""
    if not os.path.isfile(path):
        leads_nowhere = 'a link that leads to no file' if os.path.islink(path) else 'no such file'
        raise UserError('not an image file' if os.path.exists(path) else leads_nowhere)
    try:
        return open(path, 'rb')
    except OSError as error:
        raise UserError(f'cannot be read ({error.strerror})') from error


@contextlib.contextmanager
def silent_stderr() -> Iterator[None]:
    """Discard what C libraries write to stderr: libtiff and libpng print errors there that are raised as well."""
    kept = os.dup(2)
    try:
        with open(os.devnull, 'wb') as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def decode(file: BinaryIO) -> Decoded:
    """Decode an open file. Errors of any kind are raised for damaged files."""
    begin = file.read(BEGIN)
    lacking = what_is_lacking(begin)
    if lacking:
        raise UserError(lacking)
    file.seek(0)
    if begin.startswith(tiff.SIGNATURES):
        page, pages = tiff.first_page(file)
        check_input_limit((page.imagewidth, page.imagelength))
        if tiff.is_for_tifffile(page):
            return decode_by_tifffile(file, page, pages)
        file.seek(0)
    damaged: list[str] = []
    notes: list[str] = []
    if begin.startswith(png.SIGNATURE):
        content, damaged, whole = png.mended(file.read())
        file = io.BytesIO(content)
        notes = [] if whole else [WITHOUT_END]
    elif begin.startswith(webp.SIGNATURE):
        content = file.read()
        mended, damaged = webp.mended(content)
        file = io.BytesIO(mended)
        notes = [] if mended is content else [WITHOUT_END]
    try:
        decoded = decode_by_pillow(file, begin, damaged)
    except Image.UnidentifiedImageError as error:
        if begin.startswith(tiff.SIGNATURES):
            raise UserError(tiff.of_another_kind(page)) from error
        kind = next((kind for kind, signature in SIGNATURES.items() if begin.startswith(signature)), None)
        known = f'not an image of a known format ({", ".join(READABLE)})'
        raise UserError(f'a {kind} that is damaged or of a kind that is not read' if kind else known) from error
    return decoded._replace(notes=notes + decoded.notes)


def check_input_limit(size: tuple[int, int]) -> None:
    """Raise DecompressionBombError, as Pillow does, for an image of more than `INPUT_LIMIT` pixels."""
    if math.prod(size) > INPUT_LIMIT:
        raise Image.DecompressionBombError


def decode_by_tifffile(file: BinaryIO, page: tifffile.TiffPage, pages: int) -> Decoded:
    """Decode the first `page` of `pages` in an open TIFF file."""
    samples, notes = tiff.read(page)
    icc, said = profile(None if page.photometric == tiff.CMYK else page.iccprofile)
    exif, lost = exif_in(file)
    notes += [f'only the first of {pages} frames is used'] * (pages > 1) + said
    notes += [f'not kept: {", ".join(lost)}'] * bool(lost)
    return Decoded(samples, page.tags.valueof(274, 1), icc, exif, resolution(tiff.resolution(page)), notes=notes)


def decode_by_pillow(file: BinaryIO, begin: bytes, damaged: list[str]) -> Decoded:
    """Decode an open file that starts with the bytes `begin`; `damaged` names chunks that it had besides."""
    notes: list[str] = []
    labels: dict = {}
    image: Image.Image
    with Image.open(file, formats=READABLE) as image, silent_stderr():
        check_input_limit(image.size)
        try:
            image.load()
        except OSError:
            file.seek(0)
            whole = without_its_end(file.read()) if image.format in ('JPEG', 'MPO') else None
            if whole is None:
                raise
            image = whole
            notes.append(WITHOUT_END)
        if image.format == 'PNG':
            labels, more = png_labels(file)
            damaged = damaged + more
        if begin[24] == 16 and image.format == 'PNG':
            samples = in_16_bits(file)
        else:
            samples, more = in_8_bits(image, begin)
            notes += more
    frames = frames_in(file)
    if frames != 1:
        notes.append(f'only the first of {frames or "several"} frames is used')
    if not_square(image.info):
        notes.append('not kept: that its pixels are not square')
    if image.format in ('AVIF', 'HEIF'):
        labels = {} if image.info.get('icc_profile') else container_labels(begin)
        if bits_in(begin) > 8:
            notes.append(f'of its {bits_in(begin)} bits per sample, only 8 are read')
    samples = with_transparent_colour(samples, image)
    stored = image.info.get('icc_profile')
    if image.format == 'BMP':
        stored, labels, more = bmp_colours(file, begin)
        notes += more
    icc, said = profile(None if image.mode == 'CMYK' else stored)
    exif, orientation, lost = metadata(image, file)
    lost += [f'damaged {name}' for name in damaged]
    notes += [f'not kept: {", ".join(lost)}'] * bool(lost) + said
    return Decoded(samples, orientation, icc, exif, resolution(image.info.get('dpi')), labels, notes)


def frames_in(file: BinaryIO) -> int:
    """How many frames Pillow finds in an open file; 0 if those after the first are damaged or of another kind."""
    file.seek(0)
    try:
        with Image.open(file, formats=READABLE) as image:
            return getattr(image, 'n_frames', 1)
    except Exception:  # decoders raise anything
        return 0


def in_16_bits(file: BinaryIO) -> np.ndarray:
    """The samples, `(H, W, C)` uint16, of an open PNG file with 16 bits per sample; Pillow would keep only 8."""
    import imagecodecs  # a large package, needed only here

    file.seek(0)
    samples = imagecodecs.png_decode(file.read())
    return samples.reshape(*samples.shape[:2], -1)


def in_8_bits(image: Image.Image, begin: bytes) -> tuple[np.ndarray, list[str]]:
    """A loaded image as `(H, W, C)` uint8 (a PPM may be uint16), grey or RGB, with or without alpha; and notes."""
    notes: list[str] = []
    grey = image.info.get('transparency')
    if (
        image.format == 'PNG' and image.mode in ('1', 'L') and isinstance(grey, int)
    ):  # in the units of the stored samples
        image.info['transparency'] = min(255, grey * {1: 255, 2: 85, 4: 17}.get(begin[24], 1))
    if image.mode.startswith('I') and image.format == 'PPM':  # grey of up to 16 bits, which Pillow scales to 16
        return np.asarray(image).astype(np.uint16)[..., None], notes
    if image.mode == 'F':
        raise UserError(f'its samples are floating-point numbers; {tiff.WAY_OUT}')
    if image.mode.startswith('I'):
        raise UserError('its samples are of more than 8 bits, which are read of PNG and TIFF only')
    if image.format == 'PPM' and (largest := PPM.match(begin)) and int(largest[1]) > 255:
        notes.append('of its 16 bits per sample, only 8 are read; of PNG and TIFF all are')
    if image.mode == 'CMYK':
        image, note = cmyk_to_rgb(image, image.info.get('icc_profile'))
        notes.append(note)
    coloured = image.mode not in ('1', 'L', 'LA', 'La')
    translucent = image.mode[-1] in 'Aa' or image.mode == 'P' and 'transparency' in image.info
    samples = np.asarray(image.convert(('RGB' if coloured else 'L') + 'A' * translucent))
    samples = samples.reshape(*samples.shape[:2], -1)
    if image.mode == 'P' and 'icc_profile' not in image.info and (samples[..., :1] == samples[..., :3]).all():
        samples = np.delete(samples, (1, 2), axis=-1)  # a palette of greys
    return samples, notes


def with_transparent_colour(samples: np.ndarray, image: Image.Image) -> np.ndarray:
    """`samples (H, W, C)`, grey or RGB, with an alpha channel if `image` declares a colour transparent; alpha is 0
    where a pixel has that colour."""
    colour = image.info.get('transparency')
    if colour is None or samples.shape[-1] in (2, 4):
        return samples
    opaque = (samples != colour).any(-1, keepdims=True)
    return np.concatenate([samples, (opaque * np.iinfo(samples.dtype).max).astype(samples.dtype)], axis=-1)


def upright(samples: np.ndarray, orientation: int) -> np.ndarray:
    """`samples (H, W, C)` turned upright from the EXIF `orientation`, 1..8 (anything else counts as 1)."""
    if orientation in (5, 6, 7, 8):
        samples = samples.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        samples = samples[::-1]
    if orientation in (2, 3, 6, 7):
        samples = samples[:, ::-1]
    return samples


def metadata(image: Image.Image, file: BinaryIO) -> tuple[tags.Exif | None, int, list[str]]:
    """The EXIF data (or None) and the orientation of a loaded image from the open `file`, and a list of the names of
    other metadata, which is not kept."""
    lost = [LOST[name] for name in image.info if name in LOST and image.info[name]]
    lost += ['text'] if set(getattr(image, 'text', ())) - set(LOST) else []
    exif, orientation, data = None, 1, image.info.get('exif')
    try:
        orientation = image.getexif().get(tags.ORIENTATION, 1)
        if data or image.format == 'TIFF':
            exif, more = exif_in(io.BytesIO(data.removeprefix(b'Exif\0\0')) if data else file, bool(data))
            lost += more
    except Exception:  # anything, for damaged data, as above
        lost.append('damaged EXIF data')
    return exif, orientation, list(dict.fromkeys(lost))


def exif_in(file: BinaryIO, thumbnail: bool = False) -> tuple[tags.Exif | None, list[str]]:
    """The EXIF data in `file`, an open TIFF file or EXIF data, or None; and the names of the parts that are not kept.
    `thumbnail`: whether the page after the first is a thumbnail."""
    file.seek(0)
    try:
        exif, lost = tags.read(file)
    except (ValueError, OverflowError, struct.error, RecursionError):
        return None, ['damaged EXIF data']
    return exif if exif.tags else None, [name for name in lost if thumbnail or name != 'thumbnail']


def profile(icc: bytes | None) -> tuple[bytes | None, list[str]]:
    """The colour profile, or None if it is missing or damaged, and notes."""
    if not icc:
        return None, []
    if len(icc) < 128 or icc[36:40] != b'acsp':
        return None, ['the colour profile is damaged and left out']
    return icc, []


def not_square(info: dict) -> bool:
    """Whether Pillow's `info` of a PNG or JPEG tells the shape of its pixels without their size, and they are not
    square."""
    x, y = info.get('aspect') or (info.get('jfif_density') if info.get('jfif_unit') == 0 else None) or (1, 1)
    return min(x, y) > 0 and x != y


def resolution(dpi: Any) -> tuple[float, float] | None:
    """The dots per inch in a file's metadata as (x, y), or None; values of 1 mean that they are not known."""
    try:
        x, y = map(float, dpi)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return (x, y) if 1 < min(x, y) <= max(x, y) < 2**16 else None


# ---------------------------------------------------------------- writing


def check_output(path: str | os.PathLike, size: tuple[int, ...] = (1, 1)) -> Format:
    """The format that the extension of `path` stands for.

    Raises UserError, before any work, if an image of `size` (h, w) could not be written to `path`.
    """
    path = Path(path)
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        if path.suffix.lower() in LACKING.get('AVIF', ((), ()))[1]:
            raise UserError(f'{path}: {words(LACKING["AVIF"])}')
        raise UserError(
            f'{path}: no format has the extension {path.suffix!r}{suggestion(path.suffix.lower(), FORMATS)}'
        )
    if max(size) > kind.longest:
        raise UserError(f'{path}: {kind.name} holds at most {kind.longest} pixels a side, not {size[0]} x {size[1]}')
    if not os.path.isdir(path.parent):
        raise UserError(f'{path}: there is no folder {path.parent}')
    if os.path.isdir(path):
        raise UserError(f'{path}: is a folder')
    if not os.access(path.parent, os.W_OK):
        raise UserError(f'{path}: the folder {path.parent} cannot be written to')
    return kind


@contextlib.contextmanager
def open_writer(path: str | os.PathLike, size: tuple[int, ...], picture: Picture) -> Iterator['Writer']:
    """Write an image of `size` (h, w) to `path`, completely or not at all, some rows at a time: gives a `Writer`.

    `picture`, of any size, determines the kind of image: grey or colour, with or without alpha, bits, profile, labels,
    EXIF data and resolution. The extension determines the format. PNG and TIFF take little memory; for the other
    formats all rows are held in memory. Raises UserError if the image cannot be written.
    """
    kind = check_output(path, size)
    header, notes = described(kind, size, picture)
    with written(path) as temporary, open(temporary, 'wb') as file:
        with error_prefix(path):
            rows_file = kind.file(file, header, kind.name, **kind.options)
        writer = Writer(rows_file, notes, picture.grey, kind.alpha)
        yield writer
        writer.close()


@contextlib.contextmanager
def written(path: str | os.PathLike) -> Iterator[Path]:
    """As `atomic_path`, with a UserError for whatever prevents writing."""
    try:
        with atomic_path(path) as temporary:
            yield temporary
    except (OSError, ValueError, struct.error, MemoryError) as error:
        said = getattr(error, 'strerror', None) or error or 'there is not enough memory'
        raise UserError(f'{path}: cannot be written ({said})') from error


class Writer:
    """Takes the rows of an image in order. `notes` say what of the image the file cannot hold."""

    def __init__(self, file: PngFile | TiffFile | CollectedFile, notes: list[str], grey: bool, alpha: bool):
        self.file, self.notes, self.grey, self.alpha = file, notes, grey, alpha
        self.done = 0

    def write(self, rows: torch.Tensor) -> None:
        """Write the next rows, `(C, k, w)`, clamped to [0, 1]: RGB, and alpha as a fourth channel if there is any."""
        for part in rows.split(ROWS, dim=1):
            planes, alpha = part[:3].clamp(0, 1), part[3:].clamp(0, 1)
            if self.grey:
                planes = planes.mean(0, keepdim=True)
            if len(alpha):
                planes = torch.cat([planes, alpha]) if self.alpha else over_white(planes, alpha)
            bits = self.file.header.bits
            samples = (planes * (2**bits - 1)).round().permute(1, 2, 0).cpu().numpy().astype(f'u{bits // 8}')
            self.file.write(samples)
            self.done += len(samples)

    def close(self) -> None:
        """Finish the file. Raises ValueError if rows are missing."""
        if self.done != self.file.header.size[0]:
            raise ValueError(f'{self.done} rows of {self.file.header.size[0]}')
        if isinstance(self.file, CollectedFile) and self.done * self.file.header.row_bytes > LARGE:
            self.notes.append(f'{self.file.kind} cannot be written in strips as PNG and TIFF: kept in memory')
        self.file.close()


def described(kind: Format, size: Sequence[int], picture: Picture) -> tuple[Header, list[str]]:
    """The `Header` of an image of `size` (h, w) in the format `kind`, and notes on what the format cannot hold."""
    notes, bits, alpha = [], min(picture.bits, kind.bits), picture.alpha is not None
    if alpha and not kind.alpha:
        notes.append(f'{kind.name} has no alpha: laid over white')
    if bits < picture.bits:
        notes.append(f'{kind.name} is written with {bits} bits per sample, not {picture.bits} as PNG and TIFF would be')
    icc = picture.icc
    if icc and (not kind.icc or not kind.grey and icc[16:20] == b'GRAY'):
        icc = None
        notes.append(f'{kind.name} is written without the colour profile')
    if not kind.labels:
        unlike = unlike_srgb(picture.labels, icc)
        if unlike:
            notes.append(f'{kind.name} is written without {" and ".join(unlike)}: its colours look different')
    exif = picture.exif and tags.with_size(picture.exif, size)
    if exif and len(tags.encode(exif)) > kind.exif:
        exif = None
        notes.append(f'{kind.name} is written without the EXIF data')
    if picture.dpi and not kind.dpi:
        exif = tags.with_resolution(exif or tags.Exif('<', {}), picture.dpi)
    channels = (1 if picture.grey else 3) + (alpha and kind.alpha)
    return Header(tuple(size), channels, bits, icc, exif, picture.dpi, picture.labels), notes


def write_image(path: str | os.PathLike, picture: Picture) -> list[str]:
    """Write a `Picture`, clamped to [0, 1], to `path`, completely or not at all, in the format of the extension.

    Returns notes on what of the image the file cannot hold. Raises UserError if the image cannot be written.
    """
    with open_writer(path, picture.rgb.shape[-2:], picture) as writer:
        writer.write(picture.rgb if picture.alpha is None else torch.cat([picture.rgb, picture.alpha]))
    return writer.notes


def write_figure(path: str | os.PathLike, figure: Image.Image | np.ndarray, labels: dict | None = None) -> list[str]:
    """Write 8-bit RGB, a PIL image or `(H, W, 3)`, unchanged to `path`, completely or not at all; `labels` are those of
    a `Picture`.

    Returns notes and raises errors as `write_image` does.
    """
    samples = np.asarray(figure)
    size = samples.shape[:2]
    kind = check_output(path, size)
    header, notes = described(kind, size, Picture(torch.empty(3, 0, 0), labels=labels or {}))
    with written(path) as temporary, open(temporary, 'wb') as file:
        rows_file = kind.file(file, header, kind.name, **kind.options)
        rows_file.write(samples)
        rows_file.close()
    return notes
