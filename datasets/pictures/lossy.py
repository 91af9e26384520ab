"""Whether an image file was compressed with loss: which weights suit it."""

import os
from typing import BinaryIO

from PIL import Image

from datasets.pictures.formats import READABLE

ALWAYS = {'JPEG': 'JPEG', 'MPO': 'JPEG', 'HEIF': 'HEIC', 'AVIF': 'AVIF', 'JXL': 'JPEG XL'}  # as good as always
IN_TIFF = ('jpeg', 'tiff_jpeg', 'webp')  # Pillow's names of the compressions that lose something


def format_of(path: str | os.PathLike) -> tuple[str, bool]:
    """The name of an image file's format, and whether it was compressed with loss; ('', False) if it is not an image.

    AVIF, HEIC and JPEG XL count as lossy: they can be lossless, which only their decoders know, and seldom are.
    """
    try:
        with open(path, 'rb') as file, Image.open(file, formats=READABLE) as image:
            name = image.format or ''
            if name == 'WEBP':
                return 'WebP', not is_lossless_webp(file)
            lossy = name in ALWAYS or (name == 'TIFF' and image.info.get('compression') in IN_TIFF)
            return ALWAYS.get(name, name), lossy
    except Exception:  # on damaged files, decoders raise whatever comes to pass; reading the image says what is wrong
        return '', False


def is_lossless_webp(file: BinaryIO) -> bool:
    """Whether the first image of a WebP file is a lossless one: the chunk VP8L, and not VP8 with a space.

    Source: the WebP container specification (RFC 9649, section 2).
    """
    at = 12  # behind 'RIFF', the size and 'WEBP'
    while True:
        file.seek(at)
        head = file.read(8)
        if len(head) < 8 or head[:4] in (b'VP8L', b'VP8 '):
            return head[:4] == b'VP8L'
        # An animation's frame has its image inside, behind 16 bytes of its own.
        at += 8 + (16 if head[:4] == b'ANMF' else (size := int.from_bytes(head[4:], 'little')) + size % 2)
