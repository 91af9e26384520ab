"""Which files were compressed with loss."""

import struct

import numpy as np
import pytest
from PIL import Image, features

from datasets.pictures.lossy import format_of

IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8))


@pytest.mark.parametrize(
    'name, options, expected',
    [
        ('a.png', {}, ('PNG', False)),
        ('a.jpg', {}, ('JPEG', True)),
        ('a.bmp', {}, ('BMP', False)),
        ('a.gif', {}, ('GIF', False)),
        ('a.tif', {}, ('TIFF', False)),
        ('a.tif', {'compression': 'tiff_lzw'}, ('TIFF', False)),
        ('a.tif', {'compression': 'jpeg'}, ('TIFF', True)),
        ('a.webp', {}, ('WebP', True)),
        ('a.webp', {'lossless': True}, ('WebP', False)),
        ('a.webp', {'lossless': True, 'exif': b'Exif\0\0II*\0' + bytes(4)}, ('WebP', False)),
        ('a.webp', {'exif': b'Exif\0\0II*\0' + bytes(4), 'icc_profile': b'odd'}, ('WebP', True)),
    ],
)
def test_files_as_pillow_writes_them(tmp_path, name, options, expected):
    IMAGE.save(tmp_path / name, **options)
    assert format_of(tmp_path / name) == expected


@pytest.mark.parametrize('lossless', [True, False])
def test_animated_and_transparent_webp(tmp_path, lossless):
    frames = [IMAGE.convert('RGBA').rotate(angle) for angle in (0, 90)]
    frames[0].save(tmp_path / 'a.webp', save_all=True, append_images=frames[1:], lossless=lossless)
    assert b'ANMF' in (tmp_path / 'a.webp').read_bytes()
    assert format_of(tmp_path / 'a.webp') == ('WebP', not lossless)
    frames[1].save(tmp_path / 'b.webp', lossless=lossless)  # with a chunk of alpha, where it is lossy
    assert format_of(tmp_path / 'b.webp') == ('WebP', not lossless)


@pytest.mark.skipif(not features.check('avif'), reason='this Pillow has no AVIF')
def test_avif(tmp_path):
    IMAGE.save(tmp_path / 'a.avif')
    assert format_of(tmp_path / 'a.avif') == ('AVIF', True)


def test_the_content_counts_and_not_the_name(tmp_path):
    IMAGE.save(tmp_path / 'a.png', 'JPEG')
    assert format_of(tmp_path / 'a.png') == ('JPEG', True)


@pytest.mark.parametrize('content', [b'', b'no image', b'RIFF' + struct.pack('<I', 4) + b'WEBP', b'\xff\xd8\xff'])
def test_what_is_no_image_is_no_lossy_one(tmp_path, content):
    (tmp_path / 'a.jpg').write_bytes(content)
    assert format_of(tmp_path / 'a.jpg') == ('', False)
    assert format_of(tmp_path / 'missing.jpg') == ('', False)
    assert format_of(tmp_path) == ('', False)
