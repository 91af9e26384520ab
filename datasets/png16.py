"""PNG images of 16 bits a sample, which Pillow reads and writes at 8 bits (all but grey ones)."""
import struct
import zlib

import numpy as np
from PIL import Image

# What Pillow calls the samples of a 16-bit PNG, and the raw modes in which it hands out all their bytes.
RAW_MODES = {'I;16B': ['I;16B'], 'LA;16B': ['RGBA'],
             'RGB;16B': ['RGB;16B', 'RGB;16L'], 'RGBA;16B': ['RGBA;16B', 'RGBA;16L']}
COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}         # by the number of channels; PNG specification, section 11.2.2


def is_png16(image):
    """Whether a PIL image, open and not yet loaded, is a 16-bit PNG."""
    return image.format == 'PNG' and len(image.tile) == 1 and image.tile[0][3] in RAW_MODES


def read(path):
    """The samples of the 16-bit PNG at `path`: `(H, W, C)` uint16, and the loaded PIL image for its metadata.

    A sample is two bytes. Pillow keeps the high one; asked for the other byte order, it keeps the low one. It has no
    16-bit mode of grey with alpha, but the same four bytes a pixel are a plain RGBA image.
    """
    with Image.open(path, formats=['PNG']) as image:
        kind = image.tile[0][3]
    passes = []
    for raw_mode in RAW_MODES[kind]:
        with Image.open(path, formats=['PNG']) as image:
            image.tile = [image.tile[0][:3] + (raw_mode,)]
            image.load()
            passes.append(np.asarray(image))
    if kind == 'I;16B':
        samples = passes[0][..., None]
    elif kind == 'LA;16B':
        samples = passes[0][..., 0::2] * np.uint16(256) + passes[0][..., 1::2]
    else:
        samples = passes[0] * np.uint16(256) + passes[1]
    return samples.astype(np.uint16), image


def encode(samples, icc=None):
    """The bytes of a PNG file: `samples (H, W, C)` uint16 with 1 to 4 channels, `icc` the bytes of a colour profile."""
    height, width, channels = samples.shape
    rows = np.ascontiguousarray(samples, '>u2').view(np.uint8).reshape(height, -1)
    filtered = np.full((height, 1 + rows.shape[1]), 2, np.uint8)        # each row begins with its filter: 2, 'up'
    filtered[0, 1:] = rows[0]
    filtered[1:, 1:] = rows[1:] - rows[:-1]
    header = struct.pack('>IIBBBBB', width, height, 16, COLOUR_TYPES[channels], 0, 0, 0)
    chunks = [(b'IHDR', header), (b'IDAT', zlib.compress(filtered)), (b'IEND', b'')]
    if icc:
        chunks.insert(1, (b'iCCP', b'ICC profile\0\0' + zlib.compress(icc)))
    return b'\x89PNG\r\n\x1a\n' + b''.join(
        struct.pack('>I', len(data)) + name + data + struct.pack('>I', zlib.crc32(name + data))
        for name, data in chunks)
