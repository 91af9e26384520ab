"""Files that people might hand to a program as images: whole, damaged, made up, and no images at all.

Every function gives a dict from a case's name to the bytes of its file, the same at every call.
"""

import io
import struct
import zlib

import numpy as np
from PIL import Image, PngImagePlugin

from datasets.pictures import exif

SIZE = (7, 9)  # height, width
MODES = {1: 'L', 2: 'LA', 3: 'RGB', 4: 'RGBA'}
SIGNATURES = {
    'png': b'\x89PNG\r\n\x1a\n',
    'jpeg': b'\xff\xd8\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0',
    'webp': b'RIFF\x40\0\0\0WEBPVP8 ',
    'webp lossless': b'RIFF\x40\0\0\0WEBPVP8L',
    'webp extended': b'RIFF\x40\0\0\0WEBPVP8X',
    'tiff': b'II*\0\x08\0\0\0',
    'tiff, big-endian': b'MM\0*\0\0\0\x08',
    'tiff, 64 bits': b'II+\0\x08\0\0\0\x10\0\0\0\0\0\0\0',
    'bmp': b'BM\x80\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0',
    'gif': b'GIF89a\x09\0\x07\0\xf7\0\0',
}


# ---------------------------------------------------------------- making files


def samples(channels, size=SIZE, dtype=np.uint8):
    values = np.random.default_rng(channels).integers(0, np.iinfo(dtype).max, (*size, channels), dtype, endpoint=True)
    return values.squeeze(2) if channels == 1 else values


def saved(image, format, **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def png(size, depth, colour_type, data, *chunks, interlace=0, begin=SIGNATURES['png']):
    """A PNG from its parts: `data`, rows that begin with their filter's number; `chunks`, (name, data), before it."""
    header = struct.pack('>LLBBBBB', *size[::-1], depth, colour_type, 0, 0, interlace)
    parts = [(b'IHDR', header), *chunks, (b'IDAT', zlib.compress(data)), (b'IEND', b'')]
    return begin + b''.join(
        struct.pack('>L', len(data)) + name + data + struct.pack('>L', zlib.crc32(name + data)) for name, data in parts
    )


def rows(channels, depth=8, size=SIZE):
    """Random rows of a PNG without filters."""
    length = -(-size[1] * channels * depth // 8)
    content = np.random.default_rng(depth).integers(0, 256, (size[0], length), np.uint8)
    return np.concatenate([np.zeros((size[0], 1), np.uint8), content], axis=1).tobytes()


def tiff(data, order='<', **changed):
    """A TIFF of 8-bit RGB whose samples are `data`; `changed`: other values of tags, `t258=exif.short(...)`; None: no
    such tag."""
    tags = {
        256: exif.long(order, SIZE[1]),
        257: exif.long(order, SIZE[0]),
        258: exif.short(order, 8, 8, 8),
        259: exif.short(order, 1),
        262: exif.short(order, 2),
        273: exif.long(order, 8),
        277: exif.short(order, 3),
        278: exif.long(order, SIZE[0]),
        279: exif.long(order, len(data)),
    }
    tags = {**tags, **{int(name[1:]): value for name, value in changed.items()}}
    tags = {tag: value for tag, value in tags.items() if value is not None}
    data += bytes(len(data) % 2)
    return exif.head(order, 8 + len(data)) + data + exif.encode_directory(tags, order, 8 + len(data))


# ---------------------------------------------------------------- images as they should be


def whole():
    made = {}
    for channels, mode in MODES.items():
        image = Image.fromarray(samples(channels))
        for format in ('PNG', 'TIFF'):
            made[f'{format} {mode}'] = saved(image, format)
        made[f'PNG {mode}, 16 bits'] = png(SIZE, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], rows(channels, 16))
        made[f'TIFF {mode}, 16 bits'] = deep_tiff(channels)
        for compression in ('tiff_lzw', 'tiff_deflate', 'packbits'):
            made[f'TIFF {mode}, {compression}'] = saved(image, 'TIFF', compression=compression)
        if channels != 2:
            made[f'WEBP {mode}'] = saved(image, 'WEBP')
            made[f'WEBP {mode}, lossless'] = saved(image, 'WEBP', lossless=True)
            made[f'BMP {mode}'] = saved(image, 'BMP')
    rgb, grey = Image.fromarray(samples(3)), Image.fromarray(samples(1))
    for mode in ('L', 'RGB', 'CMYK', 'YCbCr'):
        made[f'JPEG {mode}'] = saved(rgb.convert(mode), 'JPEG')
        made[f'JPEG {mode}, progressive'] = saved(rgb.convert(mode), 'JPEG', progressive=True)
    made['TIFF CMYK'] = saved(rgb.convert('CMYK'), 'TIFF')
    made['TIFF jpeg'] = saved(rgb, 'TIFF', compression='jpeg')
    made['TIFF fax'] = saved(grey.convert('1'), 'TIFF', compression='group4')
    for format in ('PNG', 'GIF', 'TIFF', 'BMP'):
        made[f'{format} palette'] = saved(rgb.quantize(9), format)
        made[f'{format} 1'] = saved(grey.convert('1'), format)
    for format in ('PNG', 'GIF'):
        made[f'{format} palette, transparent'] = saved(rgb.quantize(9), format, transparency=3)
    for format in ('PNG', 'GIF', 'WEBP', 'TIFF'):
        made[f'{format} of frames'] = saved(rgb, format, save_all=True, append_images=[rgb.rotate(180)] * 2)
    made['PNG with colour that is transparent'] = saved(rgb, 'PNG', transparency=(1, 2, 3))
    data = Image.Exif()
    data[exif.ORIENTATION], data[0x010F] = 6, 'Camera'
    data.get_ifd(exif.PHOTO)[0x9003] = '2024:05:06 07:08:09'
    for format in ('PNG', 'JPEG', 'WEBP', 'TIFF'):
        made[f'{format} told about'] = saved(rgb, format, exif=data, dpi=(300, 300))
    return made


def deep_tiff(channels, alpha=None):
    values = samples(channels, dtype=np.uint16).reshape(*SIZE, channels)
    if alpha is not None:
        values[..., -1] = alpha
    extra = exif.short('<', 2) if channels in (2, 4) else None
    return tiff(
        values.astype('<u2').tobytes(),
        t258=exif.short('<', *[16] * channels),
        t262=exif.short('<', 1 if channels < 3 else 2),
        t277=exif.short('<', channels),
        t338=extra,
    )


def shapes():
    """Of one pixel, one row, one column and uneven sides."""
    made = {}
    for size in ((1, 1), (1, 2), (2, 1), (1, 300), (300, 1), (3, 17)):
        for channels, mode in MODES.items():
            image = Image.fromarray(samples(channels, size))
            for format in ('PNG', 'TIFF') + (('JPEG', 'WEBP', 'BMP', 'GIF') if channels in (1, 3) else ()):
                made[f'{format} {mode} {size}'] = saved(image, format)
            made[f'PNG {mode} {size}, 16 bits'] = png(
                size, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], rows(channels, 16, size)
            )
    return made


def odd_alpha():
    made = {}
    for name, alpha in (
        ('none', 0),
        ('all', 65535),
        ('next to none', 1),
        ('low byte', 255),
        ('high byte', 65280),
        ('in turns', np.arange(SIZE[1]) % 2 * 65535),
        ('grows', np.arange(SIZE[1]) * 8000),
    ):
        for channels in (2, 4):
            made[f'TIFF of {channels}, alpha {name}'] = deep_tiff(channels, alpha)
            values = samples(channels, dtype=np.uint16).astype('>u2')
            values[..., -1] = alpha
            content = np.concatenate([np.zeros((SIZE[0], 1), np.uint8), values.view(np.uint8).reshape(SIZE[0], -1)], 1)
            made[f'PNG of {channels}, alpha {name}'] = png(SIZE, 16, channels + 2, content.tobytes())
    return made


def told_wrongly():
    """Complete images with nonsense in EXIF data, profiles and resolutions."""
    made = {}
    rgb, jpeg, webp = rows(3), Image.fromarray(samples(3)), {'lossless': True}
    for value in (*range(10), 255, 65535):
        block = exif.encode(exif.Exif('<', {exif.ORIENTATION: exif.short('<', value)}))
        made[f'PNG, orientation {value}'] = png(SIZE, 8, 2, rgb, (b'eXIf', block))
        made[f'JPEG, orientation {value}'] = saved(jpeg, 'JPEG', exif=b'Exif\0\0' + block)
        made[f'WEBP, orientation {value}'] = saved(jpeg, 'WEBP', exif=block, **webp)
    entry = {
        exif.ORIENTATION: (7, 5, b'words'),
        0x011A: (5, 1, bytes(8)),
        0x8825: (4, 1, b'\xff\xff\xff\xff'),
        exif.PHOTO: (4, 1, b'\x08\0\0\0'),
        0x010F: (2, 2**31, b'\x08\0\0\0'),
        0x0110: (99, 4, b'what'),
        0x0131: (2, 0, b''),
        0x0132: (12, 1, struct.pack('<d', float('nan'))),
    }
    for tag, value in entry.items():
        entry = struct.pack('<HHL', tag, *value[:2]) + value[2][:4].ljust(4, b'\0')
        directory = struct.pack('<H', 1) + entry + bytes(4)
        block = exif.head('<', 8) + directory
        made[f'PNG, EXIF {tag:#x}'] = png(SIZE, 8, 2, rgb, (b'eXIf', block))
        made[f'JPEG, EXIF {tag:#x}'] = saved(jpeg, 'JPEG', exif=b'Exif\0\0' + block)
    for name, block in (
        ('none', b''),
        ('half', b'II*\0'),
        ('no end', exif.head('<', 8) + b'\xff\xff'),
        ('beyond', exif.head('>', 2**32 - 1)),
        ('itself', exif.head('<', 0)),
        ('noise', rgb),
        ('words', b'Exif\0\0 words'),
    ):
        made[f'PNG, EXIF {name}'] = png(SIZE, 8, 2, rgb, (b'eXIf', block))
        made[f'JPEG, EXIF {name}'] = saved(jpeg, 'JPEG', exif=b'Exif\0\0' + block)
        made[f'WEBP, EXIF {name}'] = saved(jpeg, 'WEBP', exif=b'Exif\0\0' + block, **webp)
    for name, profile in (
        ('words', b'no profile'),
        ('zeros', bytes(500)),
        ('noise', rgb * 3),
        ('marked', bytes(36) + b'acsp' + rgb),
        ('large', bytes(300_000)),
    ):
        for format in ('PNG', 'JPEG', 'WEBP', 'TIFF'):
            made[f'{format}, profile {name}'] = saved(jpeg, format, icc_profile=profile)
        made[f'CMYK, profile {name}'] = saved(jpeg.convert('CMYK'), 'JPEG', icc_profile=profile)
    for values in ((0, 0, 1), (1, 1, 0), (2**32 - 1, 1, 1), (1, 2**32 - 1, 1), (3000, 3000, 9)):
        made[f'PNG, resolution {values}'] = png(SIZE, 8, 2, rgb, (b'pHYs', struct.pack('>LLB', *values)))
    for name, value in (('0/0', (0, 0)), ('1/0', (1, 0)), ('0/1', (0, 1)), ('huge', (2**32 - 1, 1))):
        entry = (exif.RATIONAL, 1, struct.pack('<LL', *value))
        made[f'TIFF, resolution {name}'] = tiff(rgb, t282=entry, t283=entry, t296=exif.short('<', 2))
    return made


def renamed_and_nested():
    """Images with other data after or within them."""
    made = {}
    pictures = {
        'png': png(SIZE, 8, 2, rows(3)),
        'jpeg': saved(Image.fromarray(samples(3)), 'JPEG'),
        'bmp': saved(Image.fromarray(samples(3)), 'BMP'),
        'gif': saved(Image.fromarray(samples(1)), 'GIF'),
        'tiff': tiff(rows(3)),
        'webp': saved(Image.fromarray(samples(3)), 'WEBP'),
    }
    for outer, first in pictures.items():
        for inner, second in pictures.items():
            made[f'{inner} behind {outer}'] = first + second
        made[f'an archive behind {outer}'] = first + b'PK\5\6' + bytes(18)
        made[f'zeros behind {outer}'] = first + bytes(1000)
    for inner, content in pictures.items():
        made[f'{inner} as text in png'] = png(SIZE, 8, 2, rows(3), (b'tEXt', b'Comment\0' + content))
        made[f'{inner} as EXIF data in png'] = png(SIZE, 8, 2, rows(3), (b'eXIf', content))
        made[f'{inner} as comment in jpeg'] = saved(Image.fromarray(samples(3)), 'JPEG', comment=content)
        made[f'{inner} as profile in tiff'] = saved(Image.fromarray(samples(3)), 'TIFF', icc_profile=content)
    return made


# ---------------------------------------------------------------- images damaged


def flipped():
    """Files with one to four bytes changed anywhere."""
    rng, made = np.random.default_rng(1), {}
    for name, content in whole().items():
        for k in range(5):
            damaged = np.frombuffer(content, np.uint8).copy()
            damaged[rng.integers(0, len(damaged), 1 + k % 4)] ^= rng.integers(1, 256, 1 + k % 4, np.uint8)
            made[f'{name}, bytes changed, {k}'] = damaged.tobytes()
    return made


def truncated():
    made = {}
    for name, content in whole().items():
        for part in (0.1, 0.5, 0.9):
            made[f'{name}, {part} of it'] = content[: int(len(content) * part)]
        made[f'{name}, without its end'] = content[:-1]
    return made


def shifted():
    """Files with bytes inserted, removed or repeated."""
    rng, made = np.random.default_rng(2), {}
    for name, content in whole().items():
        at, length = int(rng.integers(0, len(content))), int(rng.integers(1, 9))
        made[f'{name}, bytes put in'] = content[:at] + rng.bytes(length) + content[at:]
        made[f'{name}, bytes left out'] = content[:at] + content[at + length :]
        made[f'{name}, bytes twice'] = content[: at + length] + content[at:]
    return made


def sizes():
    """Files that state a wrong or enormous size."""
    made = {}
    pairs = [
        (0, 0),
        (0, 5),
        (5, 0),
        (2**31 - 1, 1),
        (1, 2**31 - 1),
        (2**31 - 1,) * 2,
        (2**32 - 1,) * 2,
        (100_000, 100_000),
        (65_535, 65_535),
        (300, 300),
        (8, 9),
        (7, 10),
        (7, 8),
    ]
    bmp = bytearray(saved(Image.fromarray(samples(3)), 'BMP'))
    gif = bytearray(saved(Image.fromarray(samples(1)), 'GIF'))
    lossless = bytearray(saved(Image.fromarray(samples(3)), 'WEBP', lossless=True))
    jpeg = bytearray(saved(Image.fromarray(samples(3)), 'JPEG'))
    for height, width in pairs:
        name = f'{height} x {width}'
        made[f'PNG {name}'] = png((height, width), 8, 2, rows(3))
        made[f'PNG {name}, 16 bits'] = png((height, width), 16, 6, rows(4, 16))
        made[f'TIFF {name}'] = tiff(rows(3), t256=exif.long('<', width), t257=exif.long('<', height))
        bmp[18:26] = struct.pack('<LL', width, height)
        made[f'BMP {name}'] = bytes(bmp)
        if max(height, width) <= 65_535:
            gif[6:10] = struct.pack('<HH', width, height)
            made[f'GIF {name}'] = bytes(gif)
            at = jpeg.index(b'\xff\xc0') + 5
            jpeg[at : at + 4] = struct.pack('>HH', height, width)
            made[f'JPEG {name}'] = bytes(jpeg)
        if 0 < min(height, width) and max(height, width) <= 16_384:
            lossless[21:25] = struct.pack('<L', width - 1 | height - 1 << 14)
            made[f'WEBP {name}'] = bytes(lossless)
    return made


def png_parts():
    """PNG files that no program writes."""
    made, rgb = {}, rows(3)
    for depth in (0, 1, 2, 3, 4, 8, 16, 32):
        for colour_type in range(8):
            made[f'PNG of {depth} bits, type {colour_type}'] = png(SIZE, depth, colour_type, rows(4, 16))
    palette = bytes(range(9))
    for name, plte, trns in (
        ('short', palette, b''),
        ('none', None, b''),
        ('of 4', palette[:4], b''),
        ('empty', b'', b''),
        ('too long', bytes(300 * 3), b''),
        ('less than alpha', palette, bytes(200)),
        ('and alpha', palette, bytes(2)),
        ('and alpha too long', palette, bytes(300)),
    ):
        for depth in (1, 4, 8):
            chunks = [(b'PLTE', plte)] * (plte is not None) + [(b'tRNS', trns)] * bool(trns)
            made[f'PNG, palette {name}, {depth} bits'] = png(SIZE, depth, 3, rows(1, 8), *chunks)
    for length in (0, 1, 2, 5, 6, 7):
        for colour_type in (0, 2, 4, 6):
            made[f'PNG, transparent {length}, {colour_type}'] = png(
                SIZE, 8, colour_type, rows(4), (b'tRNS', b'\1' * length)
            )
    for interlace in (1, 2, 255):
        made[f'PNG, interlaced {interlace}'] = png(SIZE, 8, 2, rgb * 2, interlace=interlace)
    for filter_type in (1, 4, 5, 255):
        made[f'PNG, filter {filter_type}'] = png(SIZE, 8, 0, (bytes([filter_type]) + bytes(SIZE[1])) * SIZE[0])
    bomb = zlib.compress(bytes(2**25))
    for name, chunk in (
        ('profile', (b'iCCP', b'x\0\0' + bomb)),
        ('text', (b'zTXt', b'x\0\0' + bomb)),
        ('international text', (b'iTXt', b'x\0\1\0\0\0' + bomb)),
        ('gamma', (b'gAMA', bytes(4))),
        ('short gamma', (b'gAMA', b'')),
        ('chromaticity', (b'cHRM', b'\0')),
        ('frames', (b'acTL', bytes(8))),
        ('no frames', (b'acTL', b'')),
        ('many frames', (b'acTL', b'\xff' * 8)),
        ('a second header', (b'IHDR', bytes(13))),
        ('an early end', (b'IEND', b'')),
        ('samples before', (b'IDAT', b'')),
        ('other samples', (b'IDAT', zlib.compress(b''))),
        ('unknown', (b'ABCD', b'x')),
        ('nameless', (b'\0\0\0\0', b'x')),
        ('unknown, private', (b'abcd', b'x')),
        ('bad profile', (b'iCCP', b'x\0\0noise')),
        ('bad text', (b'tEXt', b'\xff' * 90)),
    ):
        made[f'PNG with {name}'] = png(SIZE, 8, 2, rgb, chunk)
    made['PNG without samples'] = png(SIZE, 8, 2, b'')
    made['PNG of too many samples'] = png(SIZE, 8, 2, rgb * 1000)
    made['PNG of zeros'] = png((200, 200), 8, 2, bytes(200 * 601))
    image, chunk = png(SIZE, 8, 2, rgb), b'IDAT'
    made['PNG, wrong sum'] = image.replace(image[29:33], b'\0\0\0\0', 1)
    made['PNG, samples renamed'] = image.replace(chunk, b'IDAX')
    made['PNG, no end'] = image[:-12]
    text = PngImagePlugin.PngInfo()
    text.add_text('XML:com.adobe.xmp', '<x tiff:Orientation="7"/>')
    made['PNG, turned by XMP'] = saved(Image.fromarray(samples(3)), 'PNG', pnginfo=text)
    return made


def tiff_tags():
    """Every tag of a TIFF with values that do not fit."""
    made = {}
    for number in (
        256,
        257,
        258,
        259,
        262,
        266,
        273,
        274,
        277,
        278,
        279,
        284,
        296,
        317,
        320,
        322,
        323,
        324,
        330,
        338,
        339,
        347,
        530,
        34665,
        34853,
    ):
        for order, value in (('<', 0), ('<', 2), ('>', 5), ('<', 65_535)):
            made[f'TIFF, {number} is {value}'] = tiff(rows(3), order, **{f't{number}': exif.short(order, value)})
        made[f'TIFF, no {number}'] = tiff(rows(3), **{f't{number}': None})
        made[f'TIFF, {number} in words'] = tiff(rows(3), **{f't{number}': (2, 6, b'words\0')})
        made[f'TIFF, {number} many'] = tiff(rows(3), **{f't{number}': exif.short('<', *range(20))})
        made[f'TIFF, {number} a fraction'] = tiff(rows(3), **{f't{number}': (exif.RATIONAL, 1, bytes(8))})
    circle = bytearray(tiff(rows(3)))
    start = struct.unpack('<L', circle[4:8])[0]
    at = start + 2 + 12 * struct.unpack('<H', circle[start : start + 2])[0]
    circle[at : at + 4] = struct.pack('<L', start)
    made['TIFF, pages in a circle'] = bytes(circle)
    for bits in ((16,), (16, 16), (16,) * 3, (16,) * 4, (16,) * 5, (8, 16, 8), (1,), (32,), (12,), (24,), (64,)):
        for photometric in (0, 1, 2, 3, 5, 6, 8):
            data = np.random.default_rng(0).bytes(SIZE[0] * SIZE[1] * sum(bits) // 8 + 1)
            made[f'TIFF of {bits}, {photometric}'] = tiff(
                data,
                t258=exif.short('<', *bits),
                t262=exif.short('<', photometric),
                t277=exif.short('<', len(bits)),
                t338=exif.short('<', 2) if len(bits) in (2, 4) else None,
            )
    return made


# ---------------------------------------------------------------- no images


def no_images():
    rng = np.random.default_rng(3)
    made = {
        'nothing': b'',
        'a zero': b'\0',
        'zeros': bytes(5000),
        'ones': b'\xff' * 5000,
        'noise': rng.bytes(5000),
        'a line': b'no image\n',
        'words': 'Grüße, 世界\n'.encode(),
        'words, 16 bits': 'words'.encode('utf-16'),
        'long line': b'x' * 100_000,
        'page': b'<!DOCTYPE html><html></html>',
        'drawing': b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
        'data': b'{"image": [1, 2, 3]}',
        'document': b'%PDF-1.7\n%\xe2\xe3\xcf\xd3\n',
        'print': b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n',
        'archive': b'PK\3\4' + bytes(60),
        'packed': b'\x1f\x8b\x08' + bytes(60),
        'program': b'\x7fELF\2\1\1' + bytes(60),
        'other program': b'MZ\x90\0' + bytes(60),
        'script': b'#!/bin/sh\nexit\n',
        'film': b'\0\0\0\x20ftypisom' + bytes(60),
        'HEIC': b'\0\0\0\x20ftypheic' + bytes(60),
        'AVIF': b'\0\0\0\x20ftypavif' + bytes(60),
        'sound': b'RIFF\x24\0\0\0WAVEfmt ' + bytes(30),
        'icon': b'\0\0\1\0\1\0\x10\x10' + bytes(60),
        'PSD': b'8BPS\0\1' + bytes(60),
        'JPEG 2000': b'\0\0\0\x0cjP  \r\n\x87\n' + bytes(60),
        'PPM': b'P6 3 3 255\n' + bytes(20),
        'XPM': b'/* XPM */\n',
        'PCX': b'\x0a\5\1\x08' + bytes(200),
        'QOI': b'qoif' + bytes(30),
        'FITS': b'SIMPLE  =  T' + bytes(90),
        'pickle': b'\x80\4\x95\0\0\0\0\0\0\0\0}.',
        'array': b'\x93NUMPY\1\0' + bytes(60),
        'weights': b'PK\3\4archive',
    }
    for name, begin in SIGNATURES.items():
        for end, content in (
            ('', b''),
            (' and zeros', bytes(200)),
            (' and ones', b'\xff' * 200),
            (' and noise', rng.bytes(200)),
            (' and more noise', rng.bytes(3000)),
        ):
            made[f'{name} begins{end}'] = begin + content
    return made
