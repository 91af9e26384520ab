"""Image files written a few rows at a time: PNG and TIFF in little memory, the others collected for Pillow.

PNG and TIFF are our own because Pillow can write neither strips nor RGB with 16 bits, and tifffile writes no EXIF
directories and asks for strips, which here are handed over.
All three classes are made from an open `file`, a `Header` and the format's name, `kind`. `write(samples)` takes the
next rows, `(k, w, C)`; `close()` finishes the file after the last rows.
"""

import struct
import zlib
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image

from datasets.pictures import exif as tags
from datasets.pictures.png import chunk
from utils import UserError

AT_ONCE = 2**18  # bytes of samples that are filtered and compressed at a time
LARGEST_TIFF = 2**32 - 2**26  # bytes of samples: offsets have 32 bits, and a file holds more than samples


class Header(NamedTuple):
    """What a file says about its samples, which are uint8 or uint16."""

    size: tuple  # h, w
    channels: int  # 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha
    bits: int = 8  # per sample: 8 or 16
    icc: bytes | None = None  # colour profile
    exif: tags.Exif | None = None
    dpi: tuple | None = None  # x, y
    labels: dict = {}  # PNG's chunks that describe the colours: names and data

    @property
    def row_bytes(self) -> int:
        return self.size[1] * self.channels * self.bits // 8

    @property
    def rows_at_once(self) -> int:
        return max(1, AT_ONCE // self.row_bytes)


# ---------------------------------------------------------------- PNG


class PngFile:
    """PNG, with the best filter for each row. Source: PNG specification, third edition, sections 9, 11 and 12.7."""

    def __init__(self, file: BinaryIO, header: Header, kind: str = 'PNG'):
        self.file, self.header = file, header
        self.deflate = zlib.compressobj()
        self.above = np.zeros(header.row_bytes, np.uint8)
        colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[header.channels]
        file.write(b'\x89PNG\r\n\x1a\n')
        self.chunk(b'IHDR', struct.pack('>LLBBBBB', *header.size[::-1], header.bits, colour_type, 0, 0, 0))
        for name, data in header.labels.items():
            self.chunk(name.encode(), data)
        if header.icc:
            self.chunk(b'iCCP', b'ICC profile\0\0' + zlib.compress(header.icc))
        if header.dpi:
            self.chunk(b'pHYs', struct.pack('>LLB', *(round(n / 0.0254) for n in header.dpi), 1))
        if header.exif:
            self.chunk(b'eXIf', tags.encode(header.exif))

    def chunk(self, name: bytes, data: bytes) -> None:
        self.file.write(chunk(name, data))

    def write(self, samples: np.ndarray) -> None:
        step = self.header.channels * self.header.bits // 8
        rows = np.ascontiguousarray(samples, f'>u{self.header.bits // 8}').view(np.uint8).reshape(len(samples), -1)
        for top in range(0, len(rows), self.header.rows_at_once):
            part = rows[top : top + self.header.rows_at_once]
            data = self.deflate.compress(filtered(part, self.above, step).tobytes())
            self.above = part[-1]
            if data:
                self.chunk(b'IDAT', data)

    def close(self) -> None:
        self.chunk(b'IDAT', self.deflate.flush())
        self.chunk(b'IEND', b'')


def filtered(rows: np.ndarray, above: np.ndarray, step: int) -> np.ndarray:
    """Filter `rows (k, n)` of bytes, `step` per pixel, below the row `above (n)`: `(k, 1 + n)`, in each row the number
    of a filter and then its result. The filter is the one that gives the smallest sum of magnitudes."""
    up = np.concatenate([above[None], rows[:-1]])
    left, corner = np.zeros_like(rows), np.zeros_like(rows)
    left[:, step:], corner[:, step:] = rows[:, :-step], up[:, :-step]
    wide_left, wide_up, wide_corner = (values.astype(np.int16) for values in (left, up, corner))
    to_left, to_up = abs(wide_up - wide_corner), abs(wide_left - wide_corner)
    to_corner = abs(wide_left + wide_up - 2 * wide_corner)
    paeth = np.where((to_left <= to_up) & (to_left <= to_corner), left, np.where(to_up <= to_corner, up, corner))
    average = ((wide_left + wide_up) // 2).astype(np.uint8)
    results = np.stack([rows, rows - left, rows - up, rows - average, rows - paeth])  # (5, k, n)
    best = np.minimum(results, -results).sum(-1, dtype=np.int64).argmin(0)
    return np.concatenate([best[:, None].astype(np.uint8), results[best, np.arange(len(rows))]], axis=1)


# ---------------------------------------------------------------- TIFF


class TiffFile:
    """Strips of rows, as differences of neighbours compressed by deflate, followed by the directory. Source: TIFF 6.0,
    sections 2 to 8 and 14.

    Raises UserError for an image that may be too large for 32-bit offsets.
    """

    def __init__(self, file: BinaryIO, header: Header, kind: str = 'TIFF'):
        if header.size[0] * header.row_bytes > LARGEST_TIFF:
            raise UserError('a TIFF holds at most 4 GiB, a PNG has no such limit')
        self.file, self.header = file, header
        self.order = header.exif.order if header.exif else '<'
        self.waiting = np.empty((0, header.size[1], header.channels), f'u{header.bits // 8}')
        self.offsets: list[int] = []
        self.lengths: list[int] = []
        file.write(bytes(8))

    def write(self, samples: np.ndarray) -> None:
        self.waiting = np.concatenate([self.waiting, samples])
        while len(self.waiting) >= self.header.rows_at_once:
            self.strip(self.waiting[: self.header.rows_at_once])
            self.waiting = self.waiting[self.header.rows_at_once :]

    def strip(self, samples: np.ndarray) -> None:
        differences = samples.copy()
        differences[:, 1:] -= samples[:, :-1]
        data = zlib.compress(differences.astype(f'{self.order}u{self.header.bits // 8}').tobytes())
        self.offsets.append(self.file.tell())
        self.lengths.append(len(data))
        self.file.write(data + bytes(len(data) % 2))

    def close(self) -> None:
        if len(self.waiting):
            self.strip(self.waiting)
        start = self.file.tell()
        self.file.write(tags.encode_directory(self.directory(), self.order, start))
        self.file.seek(0)
        self.file.write(tags.head(self.order, start))

    def directory(self) -> dict:
        header, order = self.header, self.order
        exif = header.exif or tags.Exif(order, {})
        if header.dpi:
            exif = tags.with_resolution(exif, header.dpi)
        told = {
            256: tags.long(order, header.size[1]),
            257: tags.long(order, header.size[0]),
            258: tags.short(order, *[header.bits] * header.channels),
            259: tags.short(order, 8),  # deflate
            262: tags.short(order, 1 if header.channels <= 2 else 2),  # grey, black is 0; RGB
            273: tags.long(order, *self.offsets),
            279: tags.long(order, *self.lengths),
            277: tags.short(order, header.channels),
            278: tags.long(order, header.rows_at_once),
            317: tags.short(order, 2),  # differences
        }
        if header.channels in (2, 4):
            told[338] = tags.short(order, 2)  # alpha, colour not multiplied by it
        if header.icc:
            told[34675] = tags.undefined(header.icc)
        return {**exif.tags, **told}


# ---------------------------------------------------------------- others


class CollectedFile:
    """All rows in memory, then written by Pillow as the format `kind`, with `options` of its own."""

    def __init__(self, file: BinaryIO, header: Header, kind: str, **options: Any):
        self.file, self.header, self.kind, self.options = file, header, kind, options
        self.parts: list[np.ndarray] = []

    def write(self, samples: np.ndarray) -> None:
        self.parts.append(samples)

    def close(self) -> None:
        samples = np.concatenate(self.parts)
        self.parts.clear()
        image = Image.fromarray(samples.squeeze(2) if samples.shape[2] == 1 else samples)
        told = {
            'icc_profile': self.header.icc,
            'dpi': self.header.dpi,
            'exif': self.header.exif and b'Exif\0\0' + tags.encode(self.header.exif),
        }
        image.save(self.file, self.kind, **{name: value for name, value in told.items() if value}, **self.options)
