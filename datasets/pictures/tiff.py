"""TIFF images whose samples Pillow does not read unchanged: those of more than 8 bits or in separate planes."""

import logging
import math
from typing import BinaryIO

import numpy as np
import tifffile
from PIL import Image

from datasets.pictures.colour import cmyk_to_rgb
from utils import UserError

logging.getLogger('tifffile').addHandler(logging.NullHandler())  # or errors are printed to stderr as well as raised

SIGNATURES = b'II*\0', b'MM\0*', b'II+\0', b'MM\0+'
UNSIGNED, UNDEFINED = 1, 4  # kinds of samples
KINDS = {2: 'signed whole numbers', 3: 'floating-point numbers', 5: 'complex numbers', 6: 'complex numbers'}
GREYS, COLOURS, CMYK = (0, 1), 2, 5  # photometric interpretations; in the first kind of grey, white is 0
PREMULTIPLIED, STRAIGHT = 1, 2  # kinds of extra samples that are alpha
WAY_OUT = 'saved as whole numbers from 0 up, with 8 or 16 bits per sample, it can be read'


def first_page(file: BinaryIO) -> tuple[tifffile.TiffPage, int]:
    """The first page of an open TIFF file, and the number of pages.

    Raises UserError for missing rows and for samples that are not whole numbers from 0 up of at most 16 bits; raises
    errors of any kind for damaged files.
    """
    pages = tifffile.TiffFile(file).pages
    page = pages[0].aspage()
    bits, kind = page.bitspersample, page.sampleformat
    if kind not in (UNSIGNED, UNDEFINED) or bits == 0 or isinstance(bits, int) and bits > 16:
        name = KINDS.get(kind, 'whole numbers') if isinstance(kind, int) else 'several kinds'
        raise UserError(f'its samples are {name} of {bits} bits; {WAY_OUT}')
    if len(page.dataoffsets) < math.prod(page.chunked) or 0 in page.databytecounts:
        raise UserError('rows are missing')
    if page.is_reduced and (len(pages) > 1 or page.subifds):
        raise UserError(
            'begins with a small preview of the image, as files of cameras (DNG, NEF) do; developed, or saved as a '
            'TIFF of one page, it can be read'
        )
    return page, len(pages)


def is_for_tifffile(page: tifffile.TiffPage) -> bool:
    """Whether Pillow, or the oldest version of it that is allowed, would not read all of the samples."""
    if not isinstance(page.bitspersample, int) or page.bitspersample < 8:
        return False
    apart = page.planarconfig == 2 and page.samplesperpixel > 1
    unknown = page.parent.is_bigtiff and page.parent.byteorder == '>' or PREMULTIPLIED in page.extrasamples
    plain = page.photometric in (*GREYS, COLOURS, CMYK)
    extra = page.samplesperpixel - {COLOURS: 3, CMYK: 4}.get(page.photometric, 1)
    unknown = unknown or extra > 1 or extra == 1 and STRAIGHT not in page.extrasamples
    return page.bitspersample > 8 or apart or unknown and plain


def read(page: tifffile.TiffPage) -> tuple[np.ndarray, list[str]]:
    """The samples of a page that `is_for_tifffile`, `(H, W, C)` uint8 or uint16: grey, grey and alpha, RGB or RGBA; and
    notes. Raises UserError for colours of another kind, and errors of any kind for damaged files."""
    bits, photometric, notes = page.bitspersample, int(page.photometric), []
    if photometric not in (*GREYS, COLOURS, CMYK):
        raise UserError(of_another_kind(page))
    stored = page.asarray(squeeze=False, maxworkers=1)[:, 0]  # (planes, H, W, samples of a plane)
    samples = np.moveaxis(stored, 0, 2).reshape(*stored.shape[1:3], -1)
    if 8 < bits < 16:
        samples = np.round(samples * (65535 / (2**bits - 1))).astype(np.uint16)
    if photometric == 0:
        samples = np.iinfo(samples.dtype).max - samples
    colours = {COLOURS: 3, CMYK: 4}.get(photometric, 1)
    if samples.shape[2] < colours:
        raise UserError('channels are missing')
    colour, extra = samples[..., :colours], samples[..., colours:]
    if photometric == CMYK:
        return of_cmyk(colour, page.iccprofile)
    kinds = [int(kind) for kind in page.extrasamples][: extra.shape[2]]
    alphas = [k for k, kind in enumerate(kinds) if kind in (PREMULTIPLIED, STRAIGHT)]
    if extra.shape[2] > len(alphas[:1]):
        notes.append('not kept: channels besides colour and alpha')
    if alphas:
        alpha = extra[..., alphas[0], None]
        colour = divided(colour, alpha) if kinds[alphas[0]] == PREMULTIPLIED else colour
        colour = np.concatenate([colour, alpha], axis=-1)
    return np.ascontiguousarray(colour), notes


def of_another_kind(page: tifffile.TiffPage) -> str:
    """What an error says of a page whose samples cannot be read."""
    try:
        kind = f'colours are of the kind {tifffile.PHOTOMETRIC(page.photometric).name}'
    except ValueError:
        kind = f'colours are of an unknown kind ({page.photometric})'
    return f'its {kind}, with {page.bitspersample} bits per sample; saved as RGB it can be read'


def of_cmyk(samples: np.ndarray, icc: bytes | None) -> tuple[np.ndarray, list[str]]:
    """CMYK `samples (H, W, 4)` as 8-bit RGB, and notes."""
    notes = ['of the 16 bits per sample of CMYK, only 8 are read'] if samples.dtype == np.uint16 else []
    narrow = np.ascontiguousarray(samples >> 8 if notes else samples, np.uint8)
    image, note = cmyk_to_rgb(Image.frombytes('CMYK', narrow.shape[1::-1], narrow.tobytes()), icc)
    return np.asarray(image), [*notes, note]


def divided(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """`colour (H, W, C)` divided by `alpha (H, W, 1)`, by which it had been multiplied."""
    peak = np.iinfo(colour.dtype).max
    return (colour / np.maximum(alpha, 1, dtype=np.float64) * peak).round().clip(0, peak).astype(colour.dtype)


def resolution(page: tifffile.TiffPage) -> tuple[float, float] | None:
    """Dots per inch, (x, y), or None if the page does not say."""
    unit = {2: 1, 3: 2.54}.get(page.tags.valueof(296, 2))
    try:
        x, y = (n / d for n, d in (page.tags.valueof(tag) for tag in (282, 283)))
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return (unit * x, unit * y) if unit else None
