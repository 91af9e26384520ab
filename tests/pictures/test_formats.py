"""Formats and endings: what phones and the web make, files that lack their end, what a package is missing for."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.pictures import formats, image_io
from datasets.pictures.formats import FORMATS, LACKING, bits_in, what_is_lacking
from datasets.pictures.image_io import Picture, check_output, read_image, write_image
from datasets.pictures.jpeg import has_all_scans
from datasets.pictures.png import chunk
from utils import UserError

HEIC = b'\0\0\0\x1cftypheic\0\0\0\0mif1heicmiaf' + bytes(60)
AVIF = b'\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf' + bytes(60)
JXL = b'\xff\x0a' + bytes(60)
JXL_BOX = b'\0\0\0\x0cJXL \r\n\x87\n' + bytes(60)
needs_avif = pytest.mark.skipif('AVIF' in LACKING, reason='this Pillow has no AVIF')


def photo(height=40, width=56):
    y, x = np.mgrid[:height, :width]
    waves = [127 + 120 * np.sin((y * (c + 1) + x * 2) / 7) for c in range(3)]
    return np.stack(waves, axis=-1).astype(np.uint8)


# ---------------------------------------------------------------- formats that need a package


@pytest.mark.parametrize(
    'name, content, package',
    [
        ('HEIF', HEIC, 'HEIC needs the package pillow-heif'),
        ('JXL', JXL, 'JPEG XL needs the package pillow-jxl-plugin'),
        ('JXL', JXL_BOX, 'JPEG XL needs the package pillow-jxl-plugin'),
        ('AVIF', AVIF, 'AVIF needs Pillow 11.3 or newer, or the package pillow-avif-plugin'),
    ],
)
@pytest.mark.parametrize('suffix', ['.heic', '.jpg'])  # the content counts: phones rename
def test_a_format_without_its_package_names_it(tmp_path, monkeypatch, name, content, package, suffix):
    monkeypatch.setitem(formats.LACKING, name, formats.OPTIONAL[name])
    (tmp_path / f'a{suffix}').write_bytes(content)
    with pytest.raises(UserError, match=f'a{suffix}: {package}$'):
        read_image(tmp_path / f'a{suffix}')
    monkeypatch.delitem(formats.LACKING, name)
    assert what_is_lacking(content) is None  # then it is for Pillow


def test_a_film_is_no_heic():
    assert what_is_lacking(b'\0\0\0\x20ftypisom' + bytes(60)) is None and what_is_lacking(b'') is None


def test_a_format_that_cannot_be_written_names_what_it_needs(tmp_path, monkeypatch):
    monkeypatch.setitem(image_io.LACKING, 'AVIF', formats.OPTIONAL['AVIF'])
    monkeypatch.delitem(image_io.FORMATS, '.avif', raising=False)
    with pytest.raises(UserError, match='a.avif: AVIF needs Pillow 11.3'):
        check_output(tmp_path / 'a.avif')


@needs_avif
@pytest.mark.parametrize('channels', [1, 2, 3, 4])
def test_avif_is_read_and_written(tmp_path, channels):
    rgb = torch.from_numpy(photo()).permute(2, 0, 1) / 255
    rgb = rgb[:1].repeat(3, 1, 1) if channels <= 2 else rgb
    alpha = None if channels in (1, 3) else torch.linspace(0.2, 1, 56).expand(1, 40, 56)
    assert write_image(tmp_path / 'a.avif', Picture(rgb, alpha, channels <= 2)) == []
    picture, notes = read_image(tmp_path / 'a.avif')
    assert notes == [] and (picture.rgb - rgb).abs().mean() < 0.02
    assert (picture.alpha is None) == (alpha is None) and (alpha is None or (picture.alpha - alpha).abs().max() < 0.03)


def test_bits_of_containers():
    assert bits_in(b'av1C\x81\x04\x0c\0') == 8 and bits_in(b'..av1C\x81\x24\x4c\0') == 10
    assert bits_in(b'av1C\x81\x44\x6c\0') == 12 and bits_in(b'av1C') == 8 == bits_in(b'')
    assert bits_in(b'hvcC' + bytes(17) + b'\xfa') == 10 and bits_in(b'hvcC' + bytes(17) + b'\xf8') == 8


@pytest.mark.parametrize('suffix', ['.jpeg', '.jpe', '.jfif', '.JPG'])
def test_all_names_of_jpeg_are_jpeg(tmp_path, suffix):
    write_image(tmp_path / f'a{suffix}', Picture(torch.rand(3, 4, 4)))
    assert (tmp_path / f'a{suffix}').read_bytes()[:2] == b'\xff\xd8' and FORMATS['.jpe'] == FORMATS['.jpg']


# ---------------------------------------------------------------- files that lack their end


@pytest.mark.parametrize(
    'options',
    [{}, {'progressive': True}, {'restart_marker_blocks': 2}, {'quality': 95, 'subsampling': 0}],
    ids=str,
)
@pytest.mark.parametrize('mode', ['L', 'RGB', 'CMYK'])
def test_a_jpeg_without_its_end_is_read_and_said_so(tmp_path, mode, options):
    file = io.BytesIO()
    Image.fromarray(photo()).convert(mode).save(file, 'JPEG', **options)
    content = file.getvalue()
    (tmp_path / 'a.jpg').write_bytes(content)
    whole, notes = read_image(tmp_path / 'a.jpg')
    for missing in (1, 2):
        (tmp_path / 'a.jpg').write_bytes(content[:-missing])
        picture, more = read_image(tmp_path / 'a.jpg')
        assert torch.equal(picture.rgb, whole.rgb)
        assert sorted(more) == sorted([*notes, 'the end of the file is missing; all of the image is there'])
    for missing in (20, len(content) // 3):
        (tmp_path / 'a.jpg').write_bytes(content[:-missing])
        with pytest.raises(UserError, match='a.jpg: unreadable image'):
            read_image(tmp_path / 'a.jpg')


def test_a_progressive_jpeg_without_its_last_scans_is_refused(tmp_path):
    file = io.BytesIO()
    Image.fromarray(photo()).save(file, 'JPEG', progressive=True)
    content = file.getvalue()
    assert has_all_scans(content)
    last = content.rindex(b'\xff\xda')
    start = content.rindex(b'\xff\xc4', 0, last) if b'\xff\xc4' in content[last - 60 : last] else last
    assert not has_all_scans(content[:start])
    (tmp_path / 'a.jpg').write_bytes(content[:start])
    with pytest.raises(UserError, match='unreadable'):
        read_image(tmp_path / 'a.jpg')


@pytest.mark.parametrize('format', ['PNG', 'TIFF', 'WEBP', 'BMP', 'GIF'])
def test_other_files_that_lack_an_end_are_read_whole_or_refused(tmp_path, format):
    file = io.BytesIO()
    Image.fromarray(photo()).quantize(64).save(file, format)
    (tmp_path / 'a').write_bytes(file.getvalue())
    whole = read_image(tmp_path / 'a')[0].rgb
    for missing in range(1, 60):
        (tmp_path / 'a').write_bytes(file.getvalue()[:-missing])
        try:
            assert torch.equal(read_image(tmp_path / 'a')[0].rgb, whole)
        except UserError:
            continue


@pytest.mark.parametrize('bits', [8, 16])
def test_a_png_without_its_end_is_read_and_said_so(tmp_path, bits):
    write_image(tmp_path / 'a.png', Picture(torch.from_numpy(photo()).permute(2, 0, 1) / 255, bits=bits))
    content, (whole, notes) = (tmp_path / 'a.png').read_bytes(), read_image(tmp_path / 'a.png')
    assert notes == []
    for missing in (1, 4, 5, 12, 13, 16):  # of the last chunk, IEND, which has 12 bytes, and of a checksum before it
        (tmp_path / 'b.png').write_bytes(content[:-missing])
        picture, notes = read_image(tmp_path / 'b.png')
        assert torch.equal(picture.rgb, whole.rgb)
        assert notes == ['the end of the file is missing; all of the image is there']
    for missing in (40, len(content) // 2):
        (tmp_path / 'b.png').write_bytes(content[:-missing])
        with pytest.raises(UserError, match='b.png: unreadable image'):
            read_image(tmp_path / 'b.png')


@pytest.mark.parametrize('bits', [8, 16])
@pytest.mark.parametrize('name, data', [(b'tEXt', b'Comment\0words'), (b'gAMA', bytes([0, 1, 2, 3])), (b'zzZz', b'')])
def test_a_png_whose_descriptions_are_damaged_is_read_without_them(tmp_path, bits, name, data):
    write_image(tmp_path / 'a.png', Picture(torch.rand(3, 4, 5), bits=bits))
    content, damaged = (tmp_path / 'a.png').read_bytes(), bytearray(chunk(name, data))
    damaged[-1] ^= 1
    (tmp_path / 'b.png').write_bytes(content[:33] + damaged + content[33:])
    picture, notes = read_image(tmp_path / 'b.png')
    assert torch.equal(picture.rgb, read_image(tmp_path / 'a.png')[0].rgb)
    assert notes == [f'not kept: damaged {name.decode()}'] and picture.labels == {}


@pytest.mark.parametrize(
    'name, content', [('PNG', b'\x89PNG\r\n\x1a\n'), ('GIF', b'GIF87a'), ('BMP', b'BM' + bytes(9))]
)
def test_a_file_of_a_known_format_is_not_said_to_be_of_none(tmp_path, name, content):
    (tmp_path / 'a').write_bytes(content)
    with pytest.raises(UserError, match=f'a: a {name} that is damaged|a: unreadable image'):
        read_image(tmp_path / 'a')


@pytest.mark.parametrize('format', ['GIF', 'TIFF'])
def test_later_frames_that_are_damaged_do_not_matter(tmp_path, format):
    file = io.BytesIO()
    first, second = (Image.fromarray(pixels).quantize(64) for pixels in (photo(), photo()[::-1]))
    first.save(file, format)
    alone = len(file.getvalue())
    first.save(file := io.BytesIO(), format, save_all=True, append_images=[second])
    (tmp_path / 'a').write_bytes(file.getvalue()[: alone + (len(file.getvalue()) - alone) // 2])
    picture, notes = read_image(tmp_path / 'a')
    assert (picture.rgb.permute(1, 2, 0) * 255 == torch.from_numpy(np.array(first.convert('RGB')))).all()
    assert [note for note in notes if 'only the first of' in note]


# ---------------------------------------------------------------- long texts


@pytest.mark.parametrize('lossless', [False, True])
def test_a_webp_without_its_end_is_read_as_far_as_its_image_is_there(tmp_path, lossless):
    image, exif = Image.effect_noise((23, 17), 90).convert('RGB'), Image.Exif()
    exif[271] = 'a maker'
    image.save(tmp_path / 'a.webp', exif=exif, lossless=lossless, xmp=b'<x/>')
    content, (whole, _) = (tmp_path / 'a.webp').read_bytes(), read_image(tmp_path / 'a.webp')
    ends = content.index(b'EXIF'), content.index(b'XMP ')
    exif_end = ends[0] + 8 + int.from_bytes(content[ends[0] + 4 : ends[0] + 8], 'little')
    (tmp_path / 'b.webp').write_bytes(content[: ends[0] - 2])  # without a byte of the image, or two
    with pytest.raises(UserError, match='b.webp: '):
        read_image(tmp_path / 'b.webp')
    for length in (*range(ends[0], ends[0] + 12), *range(ends[1] - 3, len(content))):
        (tmp_path / 'b.webp').write_bytes(content[:length])
        picture, notes = read_image(tmp_path / 'b.webp')
        assert torch.equal(picture.rgb, whole.rgb)
        assert notes[0] == 'the end of the file is missing; all of the image is there'
        assert ('damaged EXIF' in str(notes)) == (ends[0] + 4 <= length < exif_end)
        assert (picture.exif is not None) == (length >= exif_end)


@pytest.mark.parametrize('bits', [8, 16])
@pytest.mark.parametrize('kind', ['text', 'compressed', 'international', 'XMP', 'profile'])
def test_a_png_with_long_texts_is_read(tmp_path, kind, bits):
    words = b'long words ' * 400_000
    chunk = {
        'text': (b'tEXt', b'Comment\0' + words),
        'compressed': (b'zTXt', b'Comment\0\0' + zlib.compress(words)),
        'international': (b'iTXt', b'Comment\0\1\0\0\0' + zlib.compress(words)),
        'XMP': (b'iTXt', b'XML:com.adobe.xmp\0\1\0\0\0' + zlib.compress(b'<x>' + words + b'</x>')),
        'profile': (b'iCCP', b'p\0\0' + zlib.compress(words[:36] + b'acsp' + words)),
    }[kind]
    write_image(tmp_path / 'a.png', Picture(torch.rand(3, 4, 5), bits=bits))
    content, (name, data) = (tmp_path / 'a.png').read_bytes(), chunk
    part = struct.pack('>L', len(data)) + name + data + struct.pack('>L', zlib.crc32(name + data))
    (tmp_path / 'b.png').write_bytes(content[:33] + part + content[33:])
    picture, notes = read_image(tmp_path / 'b.png')
    assert torch.equal(picture.rgb, read_image(tmp_path / 'a.png')[0].rgb)
    assert notes == {'profile': [], 'XMP': ['not kept: XMP']}.get(kind, ['not kept: text'])
    assert (len(picture.icc) > 2**20) if kind == 'profile' else picture.icc is None
