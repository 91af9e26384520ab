"""EXIF data, byte by byte as they were: directories of tags, which TIFF files and EXIF data have in common.

A directory is a dict from a tag's number to `(type, count, bytes)` or, of a directory within, to such a dict.
Source: TIFF 6.0, section 2; EXIF 2.32, section 4.6.
"""

import struct
from typing import NamedTuple

from PIL.ExifTags import TAGS

SHORT, LONG, RATIONAL, UNDEFINED = 3, 4, 5, 7
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}  # bytes of a value, by its type
LARGEST = 2**24  # bytes in a directory; more is not what people write

ORIENTATION, RESOLUTION, RESOLUTION_UNIT = 0x0112, (0x011A, 0x011B), 0x0128
PHOTO, GPS, INTEROPERABILITY = 0x8769, 0x8825, 0xA005  # the directories within
WIDTH, HEIGHT = 0xA002, 0xA003  # of the image, in the directory `PHOTO`

# In the first directory: what tells of the picture stays, what tells how it is stored is made anew.
KEPT = {
    ORIENTATION,
    *RESOLUTION,
    RESOLUTION_UNIT,
    PHOTO,
    GPS,
    0x010D,
    0x010E,
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
PLACES = {0x9214, 0xA214}  # of the subject, in pixels of the old picture


class Exif(NamedTuple):
    order: str  # of bytes: '<' or '>'
    tags: dict


# ---------------------------------------------------------------- reading


def read(file):
    """The `Exif` in an open `file`, a TIFF file or EXIF data; the names of what is in it and not kept, a list.

    Orientation is reset: the picture is taken to be upright. Raises ValueError if they are no such data.
    """
    begin = exactly(file, 8)
    order, lost = {b'II': '<', b'MM': '>'}.get(begin[:2], '<'), []
    (start,) = struct.unpack(order + 'L', begin[4:])
    if begin != head(order, start):
        raise ValueError('no EXIF data')
    tags, more = directory(file, order, start, lost)
    lost += [name(tag) for tag in tags if tag not in KEPT | STORAGE]
    tags = {tag: value for tag, value in tags.items() if tag in KEPT}
    if isinstance(tags.get(PHOTO), dict):
        lost += [name(tag) for tag in tags[PHOTO] if tag in PLACES]
        tags[PHOTO] = {tag: value for tag, value in tags[PHOTO].items() if tag not in PLACES}
    if ORIENTATION in tags:
        tags[ORIENTATION] = short(order, 1)
    return Exif(order, tags), lost + ['thumbnail'] * bool(more)


def directory(file, order, at, lost, within=(PHOTO, GPS)):
    """The directory at the offset `at` of `file`, and the offset of the next, or 0. Names of tags that are damaged are
    added to the list `lost`."""
    file.seek(at)
    (count,) = struct.unpack(order + 'H', exactly(file, 2))
    table = exactly(file, 12 * count)
    more = file.read(4)
    tags, total = {}, 0
    for tag, kind, count, value in struct.iter_unpack(order + 'HHL4s', table):
        size = SIZES.get(kind, 0) * count
        try:
            if tag in within:
                tags[tag], _ = directory(file, order, struct.unpack(order + 'L', value)[0], lost, (INTEROPERABILITY,))
                continue
            total += size
            if not 0 < size <= total <= LARGEST:
                raise ValueError('damaged')
            if size > 4:
                file.seek(struct.unpack(order + 'L', value)[0])
                value = exactly(file, size)
            tags[tag] = kind, count, value[:size]
        except ValueError:
            lost.append(name(tag))
    return tags, struct.unpack(order + 'L', more)[0] if len(more) == 4 else 0


def exactly(file, size):
    data = file.read(size)
    if len(data) < size:
        raise ValueError('ends too early')
    return data


def name(tag):
    return TAGS.get(tag, f'tag {tag}')


# ---------------------------------------------------------------- writing


def encode(exif):
    """The bytes of EXIF data."""
    return head(exif.order, 8) + encode_directory(exif.tags, exif.order, 8)


def head(order, start):
    """The first eight bytes of a file or data whose first directory stands at the offset `start`."""
    return {'<': b'II*\0', '>': b'MM\0*'}[order] + struct.pack(order + 'L', start)


def encode_directory(tags, order, start):
    """The bytes of a directory and of all that it points to, to stand at the offset `start` of a file."""
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


def short(order, *values):
    return SHORT, len(values), struct.pack(f'{order}{len(values)}H', *values)


def long(order, *values):
    return LONG, len(values), struct.pack(f'{order}{len(values)}L', *values)


def undefined(data):
    return UNDEFINED, len(data), data


def with_size(exif, size):
    """`exif` that tells, if it told a size, that of an image of `size` (h, w)."""
    photo = exif.tags.get(PHOTO, {})
    told = {tag: long(exif.order, n) for tag, n in zip((HEIGHT, WIDTH), size) if tag in photo}
    return exif._replace(tags={**exif.tags, PHOTO: {**photo, **told}}) if told else exif


def with_resolution(exif, dpi):
    """`exif` with a resolution of `dpi` (x, y) dots an inch."""
    told = {
        tag: (RATIONAL, 1, struct.pack(exif.order + '2L', round(n * 10000), 10000)) for tag, n in zip(RESOLUTION, dpi)
    }
    return exif._replace(tags={**exif.tags, **told, RESOLUTION_UNIT: short(exif.order, 2)})
