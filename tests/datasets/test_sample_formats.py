"""Images of many kinds of samples: in sets, cached or not, they are what the demo reads, or refused with its words."""

import io

import numpy as np
import odd_files
import pytest
from PIL import Image

from datasets.image_folder import ImageFolder, is_image_name, read_rgb, read_size
from datasets.pictures.image_io import read_image
from datasets.wrappers import Evaluation, Training
from utils import UserError

tifffile = pytest.importorskip('tifffile')
SIZE = (12, 16)
RGB = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
GREY = RGB[..., 0]
GREYS = np.repeat(GREY[..., None], 3, axis=-1)
MASK = GREY > 127


def written(write, *arguments, **options):
    """The bytes that a function writes to a file which it is given first."""
    file = io.BytesIO()
    write(file, *arguments, **options)
    return file.getvalue()


def pil(image, format, mode=None, **options):
    image = Image.fromarray(image)
    return written(lambda file: (image.convert(mode) if mode else image).save(file, format, **options))


def tiff(samples, **options):
    return written(tifffile.imwrite, samples, **options)


def with_alpha(samples, opaque):
    return np.concatenate([samples, np.full((*SIZE, 1), opaque, samples.dtype)], axis=-1)


def png16(samples):
    rows = samples.astype('>u2').reshape(SIZE[0], -1).view(np.uint8)
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[1 if samples.ndim == 2 else samples.shape[2]]
    return odd_files.png(SIZE, 16, kind, np.insert(rows, 0, 0, axis=1).tobytes())


def turned(image, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    return pil(image, 'TIFF', exif=exif)


WIDE, UNIT = RGB.astype(np.uint16) * 257, (RGB / 255).astype(np.float32)
# Files, and the RGB that they mean; None where that is not defined, so that they can only be refused.
FORMATS = {
    'uint8 grey.png': (pil(GREY, 'PNG'), GREYS),
    'uint8 grey.tif': (tiff(GREY), GREYS),
    'uint8 grey.pgm': (pil(GREY, 'PPM'), GREYS),
    'uint8 rgb.png': (pil(RGB, 'PNG'), RGB),
    'uint8 rgb.tif': (tiff(RGB, photometric='rgb'), RGB),
    'uint8 rgb.bmp': (pil(RGB, 'BMP'), RGB),
    'uint8 rgb.ppm': (pil(RGB, 'PPM'), RGB),
    'uint8 rgb.webp': (pil(RGB, 'WEBP', lossless=True), RGB),
    'uint8 planes.tif': (tiff(RGB.transpose(2, 0, 1), photometric='rgb', planarconfig='separate'), RGB),
    'uint8 grey, alpha.png': (pil(with_alpha(GREY[..., None], 255), 'PNG'), GREYS),
    'uint8 grey, alpha.tif': (pil(with_alpha(GREY[..., None], 255), 'TIFF'), GREYS),
    'uint8 rgb, alpha.png': (pil(with_alpha(RGB, 200), 'PNG'), RGB),
    'uint8 rgb, alpha.tif': (tiff(with_alpha(RGB, 200), photometric='rgb', extrasamples=['unassalpha']), RGB),
    '1 bit.png': (pil(GREY, 'PNG', '1', bits=1), None),
    '1 bit, no dither.png': (pil(MASK, 'PNG'), np.repeat(MASK[..., None] * np.uint8(255), 3, -1)),
    '1 bit.tif': (tiff(MASK, photometric='minisblack'), np.repeat(MASK[..., None] * np.uint8(255), 3, -1)),
    '1 bit, 0 is white.tif': (tiff(MASK, photometric='miniswhite'), np.repeat(~MASK[..., None] * np.uint8(255), 3, -1)),
    'palette.png': (pil(GREY % 7 * 30, 'PNG', 'P'), None),
    'palette.gif': (pil(GREY % 7 * 30, 'GIF'), np.repeat((GREY % 7 * 30)[..., None], 3, -1)),
    'palette.tif': (pil(RGB, 'TIFF', 'P'), None),
    'cmyk.tif': (pil(RGB, 'TIFF', 'CMYK'), RGB),
    'cmyk.jpg': (pil(np.full_like(RGB, 90), 'JPEG', 'CMYK', quality=100), np.full_like(RGB, 90)),
    'ycbcr.jpg': (pil(np.full_like(RGB, 90), 'JPEG', quality=100), np.full_like(RGB, 90)),
    'lab.tif': (pil(RGB, 'TIFF', 'LAB') if hasattr(Image, 'LAB') else tiff(RGB, photometric='cielab'), None),
    'uint16 grey.png': (png16(GREY * np.uint16(257)), GREYS),
    'uint16 grey.tif': (tiff(GREY * np.uint16(257)), GREYS),
    'uint16 grey, big-endian.tif': (tiff(GREY * np.uint16(257), byteorder='>'), GREYS),
    'uint16 grey.pgm': (b'P5 16 12 65535\n' + (GREY * np.uint16(257)).astype('>u2').tobytes(), GREYS),
    'uint16 grey, alpha.png': (png16(with_alpha(WIDE[..., :1], 65535)), GREYS),
    'uint16 rgb.png': (png16(WIDE), RGB),
    'uint16 rgb, alpha.png': (png16(with_alpha(WIDE, 50000)), RGB),
    'uint16 rgb.tif': (tiff(WIDE, photometric='rgb'), RGB),
    'uint16 rgb, lzw.tif': (tiff(WIDE, photometric='rgb', compression='lzw'), RGB),
    'uint16 planes.tif': (tiff(WIDE.transpose(2, 0, 1), photometric='rgb', planarconfig='separate'), RGB),
    'uint16 cmyk.tif': (tiff(with_alpha(65535 - WIDE, 0), photometric='separated'), RGB),
    'int8 grey.tif': (tiff((GREY // 2).astype(np.int8)), None),
    'int16 grey.tif': (tiff(GREY.astype(np.int16)), None),
    'int16 rgb.tif': (tiff(RGB.astype(np.int16), photometric='rgb'), None),
    'int32 grey.tif': (tiff(GREY.astype(np.int32)), None),
    'uint32 grey.tif': (tiff(GREY * np.uint32(2**24)), GREYS),
    'uint64 grey.tif': (tiff(GREY.astype(np.uint64)), None),
    'float16 grey.tif': (tiff((GREY / 255).astype(np.float16)), GREYS),
    'float32 grey.tif': (tiff(UNIT[..., 0]), GREYS),
    'float32 grey, deflate.tif': (tiff(UNIT[..., 0], compression='zlib', predictor=True), GREYS),
    'float32 by pillow.tif': (pil(UNIT[..., 0], 'TIFF'), GREYS),
    'float32 rgb.tif': (tiff(UNIT, photometric='rgb'), RGB),
    'float32 of 255.tif': (tiff(GREY.astype(np.float32)), None),
    'float32 below 0.tif': (tiff(UNIT[..., 0] - 0.5), None),
    'float32 nan.tif': (tiff(np.full(SIZE, np.nan, np.float32)), None),
    'float64 grey.tif': (tiff(GREY / 255), GREYS),
    'float64 rgb.tif': (tiff(RGB / 255, photometric='rgb'), RGB),
    'complex.tif': (tiff(GREY.astype(np.complex64)), None),
    'float32.pfm': (b'Pf\n16 12\n-1.0\n' + UNIT[::-1, :, 0].tobytes(), GREYS),
    'upside down.tif': (turned(RGB, 3), RGB[::-1, ::-1]),
    'on its side.tif': (turned(RGB, 6), np.rot90(RGB, -1)),
}
if '.pfm' not in Image.registered_extensions():  # Pillow before 10.3: no image by its name
    del FORMATS['float32.pfm']


@pytest.fixture(params=FORMATS)
def file(request, tmp_path):
    """A file in a folder of its own, and the RGB that it means."""
    content, expected = FORMATS[request.param]
    (tmp_path / 'set').mkdir()
    path = tmp_path / 'set' / request.param
    path.write_bytes(content)
    return path, expected


def outcome(read):
    """The image that a function gives, or what it says in refusing."""
    try:
        return np.asarray(read())
    except UserError as error:
        return str(error)


def same(a, b):
    return a == b if isinstance(a, str) or isinstance(b, str) else np.array_equal(a, b)


def test_sets_give_what_the_demo_reads(file):
    path, expected = file
    assert is_image_name(path.name)
    demo = outcome(lambda: (read_image(path)[0].rgb * 255).round().byte().permute(1, 2, 0))
    if isinstance(demo, str):
        assert path.name in demo and '\n' not in demo
    elif expected is not None:
        assert demo.shape == expected.shape and np.abs(demo.astype(int) - expected).max() <= 1
    for cache in ('none', 'in_memory', 'bin'):
        assert same(outcome(lambda: ImageFolder(path.parent, cache=cache)[0]), demo)
    assert same(outcome(lambda: read_rgb(path)), demo)
    assert same(outcome(lambda: Evaluation(ImageFolder(path.parent), 1)[0]['hr'].permute(1, 2, 0) * 255), demo)


def test_the_size_of_an_image_is_that_of_its_pixels(file):
    image = outcome(lambda: read_rgb(file[0]))
    if not isinstance(image, str):
        assert read_size(file[0]) == image.shape[:2]
        assert ImageFolder(file[0].parent).size(0) == image.shape[:2]


def test_training_reads_the_same_or_says_which_file(file):
    image = outcome(lambda: read_rgb(file[0]))

    def sample():
        samples = Training(ImageFolder(file[0].parent), 1, 1, 1, 1, patch=min(SIZE), queries=1, augment=False)
        return samples[0]['hr'].permute(1, 2, 0)

    taken = outcome(sample)
    if isinstance(image, str):
        assert taken == image
    else:
        side = min(SIZE)
        crops = [image[y : y + side, x : x + side] for y in range(5) for x in range(5)]
        assert any(np.array_equal(taken, crop) for crop in crops)


def test_no_kind_of_samples_is_silently_wrong(file):
    """Whatever is read of floats, wide and signed integers is neither black nor white all over."""
    path, expected = file
    image = outcome(lambda: read_rgb(path))
    if path.name.startswith(('float', 'int', 'uint32', 'uint64', 'complex')) and not isinstance(image, str):
        assert len(np.unique(image)) > 60 or expected is not None and np.abs(image.astype(int) - expected).max() <= 1


def test_copies_of_another_way_of_reading_are_not_used(tmp_path, monkeypatch):
    (tmp_path / 'a.png').write_bytes(FORMATS['uint8 rgb.png'][0])
    before = ImageFolder(tmp_path, cache='bin').images.file
    with open(before, 'r+b') as decoded:
        decoded.write(bytes(300))
    monkeypatch.setattr('datasets.cache.READING', 99)
    after = ImageFolder(tmp_path, cache='bin')
    assert after.images.file != before and np.array_equal(after[0], RGB)
