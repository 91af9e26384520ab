"""EXIF data, kept byte by byte: directories of tags, which TIFF files and EXIF data have in common.

A directory is a dict from a tag's number to `(type, count, bytes)` or, for a nested directory, to such a dict.
It is our own because Pillow's `Exif` guesses the types of tags again when it writes them, and does not say which
damaged data it left out. Source: TIFF 6.0, section 2; EXIF 2.32, section 4.6; the BigTIFF design by Aware Systems.
"""

import struct
from collections.abc import Sequence
from typing import Any, BinaryIO, NamedTuple

from PIL.ExifTags import TAGS

SHORT, LONG, RATIONAL, UNDEFINED = 3, 4, 5, 7
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}  # bytes of a value, by its type
SIZES_BIG = {**SIZES, 13: 4, 16: 8, 17: 8, 18: 8}  # with types that classic TIFF and EXIF data do not have
LARGEST = 2**24  # bytes in a directory; nobody writes more

DESCRIPTION, ORIENTATION, RESOLUTION, RESOLUTION_UNIT = 0x010E, 0x0112, (0x011A, 0x011B), 0x0128
PHOTO, GPS, INTEROPERABILITY = 0x8769, 0x8825, 0xA005  # the nested directories
WIDTH, HEIGHT = 0xA002, 0xA003  # of the image, in the directory `PHOTO`

# In the first directory: tags about the image are kept, tags about its storage are made anew.
KEPT = {
    ORIENTATION,
    *RESOLUTION,
    RESOLUTION_UNIT,
    PHOTO,
    GPS,
    0x010D,
    DESCRIPTION,
    0x010F,
    0x0110,
    0x011D,
    0x0131,
    0x0132,
    0x013B,
    0x013C,
    0x4746,
    0x4749,
    0x8298,
    *range(0x9C9B, 0x9CA0),
    0xC4A5,
}
STORAGE = {
    *range(0x00FE, 0x0104),
    0x0106,
    0x0107,
    0x0108,
    0x0109,
    0x010A,
    0x0111,
    *range(0x0115, 0x011A),
    0x011C,
    *range(0x0120, 0x0126),
    0x013D,
    *range(0x0140, 0x0146),
    *range(0x0152, 0x0157),
    0x015B,
    *range(0x0200, 0x020A),
    *range(0x0211, 0x0215),
    0x8773,
}
# Tags that are no longer true if the image has another size or another place in the file: the subject's place, maker
# notes (which point to places in the file and in the image) and pixels per length of the sensor.
PLACES = {0x9214, 0xA214, 0x927C, 0xA20E, 0xA20F, 0xA210}
RELATED_SIZE = {0x1001, 0x1002}  # in the directory `INTEROPERABILITY`
STACKS = b'ImageJ=', b'{"shape"', b'shape=', b'<OME', b'<?xml'  # how descriptions begin that give sizes and pages


class Layout(NamedTuple):
    """How the directories of a file are stored, in the codes of `struct`."""

    number: str  # of entries
    entry: str
    offset: str
    sizes: dict  # bytes of a value, by its type


CLASSIC, BIG = Layout('H', 'HHL4s', 'L', SIZES), Layout('Q', 'HHQ8s', 'Q', SIZES_BIG)


class Exif(NamedTuple):
    order: str  # of bytes: '<' or '>'
    tags: dict


# ---------------------------------------------------------------- reading


def read(file: BinaryIO) -> tuple[Exif, list[str]]:
    """The `Exif` in an open `file`, a TIFF or BigTIFF file or EXIF data; and the names of the tags that are not kept.

    The orientation is reset, because the image is turned upright. Raises ValueError for other data.
    """
    begin = exactly(file, 8)
    lost: list[str] = []
    order, layout = {b'II': '<', b'MM': '>'}.get(begin[:2], '<'), CLASSIC
    (start,) = struct.unpack(order + 'L', begin[4:])
    if begin == BEGIN_BIG[order]:
        layout, (start,) = BIG, struct.unpack(order + 'Q', exactly(file, 8))
    elif begin != head(order, start):
        raise ValueError('no EXIF data')
    tags, more = directory(file, order, start, lost, layout)
    lost += [name(tag) for tag in tags if tag not in KEPT | STORAGE]
    tags = {tag: value for tag, value in tags.items() if tag in KEPT}
    if DESCRIPTION in tags and tags[DESCRIPTION][2].startswith(STACKS):
        del tags[DESCRIPTION]
        lost.append('ImageDescription, which is of the size or the pages')
    if isinstance(tags.get(PHOTO), dict):
        photo = tags[PHOTO] = dict(tags[PHOTO])
        lost += [name(tag) for tag in PLACES & set(photo)]
        photo = tags[PHOTO] = {tag: value for tag, value in photo.items() if tag not in PLACES}
        if isinstance(photo.get(INTEROPERABILITY), dict):
            kept = {tag: value for tag, value in photo[INTEROPERABILITY].items() if tag not in RELATED_SIZE}
            photo[INTEROPERABILITY] = kept
    if ORIENTATION in tags:
        tags[ORIENTATION] = short(order, 1)
    return Exif(order, tags), sorted(set(lost)) + ['thumbnail'] * bool(more)


def directory(
    file: BinaryIO,
    order: str,
    at: int,
    lost: list[str],
    layout: Layout = CLASSIC,
    within: tuple[int, ...] = (PHOTO, GPS),
) -> tuple[dict[int, Any], int]:
    """The directory at the offset `at` of `file`, and the offset of the next one, or 0. The names of damaged tags are
    added to `lost`. `within`: the tags that hold nested directories."""
    inline = struct.calcsize('=' + layout.offset)  # most bytes of a value that is stored in its entry
    file.seek(at)
    (count,) = struct.unpack(order + layout.number, exactly(file, struct.calcsize('=' + layout.number)))
    if count > LARGEST:
        raise ValueError('damaged')
    table = exactly(file, struct.calcsize('=' + layout.entry) * count)
    more = file.read(inline)
    tags: dict[int, Any] = {}
    total = 0
    for tag, kind, count, value in struct.iter_unpack(order + layout.entry, table):
        size = layout.sizes.get(kind, 0) * count
        try:
            if tag in within:
                start = struct.unpack(order + layout.offset, value)[0]
                if inline == 8 and kind in (LONG, 13):
                    start = struct.unpack(order + 'L', value[:4])[0]
                tags[tag], _ = directory(file, order, start, lost, layout, (INTEROPERABILITY,))
                continue
            total += size
            if not 0 < size <= total <= LARGEST or (tag in KEPT and kind not in SIZES):
                raise ValueError('damaged')
            if size > inline:
                start = struct.unpack(order + layout.offset, value)[0]
                if start >= 2**63:
                    raise ValueError('damaged')
                file.seek(start)
                value = exactly(file, size)
            tags[tag] = kind, count, value[:size]
        except ValueError:
            lost.append(name(tag))
    return tags, struct.unpack(order + layout.offset, more)[0] if len(more) == inline else 0


def exactly(file: BinaryIO, size: int) -> bytes:
    """The next `size` bytes. Raises ValueError if there are fewer."""
    data = file.read(size)
    if len(data) < size:
        raise ValueError('ends too early')
    return data


def name(tag: int) -> str:
    return 'XMP' if tag == 700 else TAGS.get(tag, f'tag {tag}')


# ---------------------------------------------------------------- writing


def encode(exif: Exif) -> bytes:
    """The bytes of EXIF data."""
    return head(exif.order, 8) + encode_directory(exif.tags, exif.order, 8)


BEGIN_BIG = {'<': b'II+\0\x08\0\0\0', '>': b'MM\0+\0\x08\0\0'}  # followed by the offset, of 64 bits


def head(order: str, start: int) -> bytes:
    """The first eight bytes of a file or of EXIF data whose first directory is at the offset `start`."""
    return {'<': b'II*\0', '>': b'MM\0*'}[order] + struct.pack(order + 'L', start)


def encode_directory(tags: dict, order: str, start: int) -> bytes:
    """The bytes of a directory, and of all that it points to, for the offset `start` of a file."""
    table, beyond = b'', b''
    after = start + 2 + 12 * len(tags) + 4
    for tag, value in sorted(tags.items()):
        at = struct.pack(order + 'L', after + len(beyond))
        if isinstance(value, dict):
            kind, count, data = LONG, 1, at
            beyond += encode_directory(value, order, after + len(beyond))
        else:
            kind, count, data = value
        if len(data) > 4:
            beyond += data + bytes(len(data) % 2)
            data = at
        table += struct.pack(order + 'HHL', tag, kind, count) + data.ljust(4, b'\0')
    return struct.pack(order + 'H', len(tags)) + table + bytes(4) + beyond


def short(order: str, *values: int) -> tuple[int, int, bytes]:
    return SHORT, len(values), struct.pack(f'{order}{len(values)}H', *values)


def long(order: str, *values: int) -> tuple[int, int, bytes]:
    return LONG, len(values), struct.pack(f'{order}{len(values)}L', *values)


def undefined(data: bytes) -> tuple[int, int, bytes]:
    return UNDEFINED, len(data), data


def with_size(exif: Exif, size: Sequence[int]) -> Exif:
    """`exif` in which the size of the image, if it is given, is `size` (h, w)."""
    photo = exif.tags.get(PHOTO, {})
    told = {tag: long(exif.order, n) for tag, n in zip((HEIGHT, WIDTH), size) if tag in photo}
    return exif._replace(tags={**exif.tags, PHOTO: {**photo, **told}}) if told else exif


def with_resolution(exif: Exif, dpi: tuple[float, float]) -> Exif:
    """`exif` with a resolution of `dpi` (x, y) dots per inch."""
    told = {
        tag: (RATIONAL, 1, struct.pack(exif.order + '2L', round(n * 10000), 10000)) for tag, n in zip(RESOLUTION, dpi)
    }
    return exif._replace(tags={**exif.tags, **told, RESOLUTION_UNIT: short(exif.order, 2)})
