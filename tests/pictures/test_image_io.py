"""Reading and writing single images: every kind comes back as it was, bad ones end in one line."""

import io
import struct
import zlib

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageCms, ImageOps, PngImagePlugin

import models
from datasets.image_folder import read_rgb
from datasets.pictures import exif, image_io, row_files
from datasets.pictures.image_io import Picture, check_output, open_writer, read_image, write_image
from datasets.pictures.transparency import with_colour_everywhere
from models.rendering.upscaler import Upscaler
from utils import UserError

SIZE = (5, 7)  # height, width
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
QUICK = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def random_samples(channels, dtype=np.uint8, size=SIZE):
    samples = np.random.default_rng(channels).integers(0, np.iinfo(dtype).max, (*size, channels), dtype, endpoint=True)
    return samples.squeeze(2) if channels == 1 else samples


def picture_of(samples, **kind):
    """A `Picture` of whole numbers (H, W, C) uint8 or uint16."""
    samples = samples.reshape(*samples.shape[:2], -1)
    peak = np.iinfo(samples.dtype).max
    planes = torch.from_numpy(samples.astype(np.float32) / peak).permute(2, 0, 1)
    grey, alpha = len(planes) <= 2, planes[-1:] if len(planes) in (2, 4) else None
    return Picture(planes[:1].repeat(3, 1, 1) if grey else planes[:3], alpha, grey, 16 if peak > 255 else 8, **kind)


def samples_in(planes, peak=255):
    """A tensor (C, H, W) in [0, 1] as whole numbers (H, W, C)."""
    return (planes * peak).round().permute(1, 2, 0).numpy().astype(int)


# ---------------------------------------------------------------- kinds of images


@pytest.mark.parametrize(
    'mode, grey, alpha',
    [
        ('1', True, False),
        ('L', True, False),
        ('LA', True, True),
        ('RGB', False, False),
        ('RGBA', False, True),
    ],
)
def test_8_bit_modes_are_read_as_they_are(tmp_path, mode, grey, alpha):
    image = Image.fromarray(random_samples({'1': 1, 'L': 1, 'LA': 2, 'RGB': 3, 'RGBA': 4}[mode])).convert(mode)
    image.save(tmp_path / 'a.png')
    picture, notes = read_image(tmp_path / 'a.png')
    assert (picture.grey, picture.alpha is not None, picture.bits, notes) == (grey, alpha, 8, [])
    assert picture.rgb.shape == (3, *SIZE) and picture.rgb.dtype == torch.float32
    expected = np.asarray(image.convert('RGBA'))
    assert (samples_in(picture.rgb) == expected[..., :3]).all()
    if alpha:
        assert (samples_in(picture.alpha) == expected[..., 3:]).all()


def test_palette_with_transparency(tmp_path):
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), 'P')
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.save(tmp_path / 'a.png', transparency=1)
    picture, _ = read_image(tmp_path / 'a.png')
    assert samples_in(picture.rgb)[0, ::2].tolist() == [[255, 0, 0], [0, 0, 255]]
    assert samples_in(picture.alpha).ravel().tolist() == [255, 0, 255]


def test_palette_of_greys_is_grey(tmp_path):
    image = Image.fromarray(np.array([[0, 1, 1]], np.uint8), 'P')
    image.putpalette([10, 10, 10, 200, 200, 200])
    image.save(tmp_path / 'a.png')
    image.save(tmp_path / 'b.png', transparency=0)
    for name, alpha in (('a', None), ('b', [0, 255, 255])):
        picture, _ = read_image(tmp_path / f'{name}.png')
        assert picture.grey and (picture.alpha is None if alpha is None else samples_in(picture.alpha).ravel().tolist())
        assert samples_in(picture.rgb)[0, 1:].tolist() == [[200] * 3] * 2


@pytest.mark.parametrize('depth', [1, 2, 4, 8])
def test_transparent_grey_of_few_bits(tmp_path, depth):
    values = np.arange(8) % 2**depth
    rows = np.packbits((values[:, None] >> np.arange(depth)[::-1]) & 1)
    write_png(tmp_path / 'a.png', (1, 8), depth, 0, bytes(1) + rows.tobytes(), tRNS=struct.pack('>H', 1))
    picture, _ = read_image(tmp_path / 'a.png')
    assert picture.grey and (samples_in(picture.alpha).ravel() == np.where(values == 1, 0, 255)).all()
    seen = values != 1
    assert (samples_in(picture.rgb)[0, seen, 0] == (values * 255 // (2**depth - 1))[seen]).all()


@pytest.mark.parametrize('bits', [8, 16])
def test_transparent_colour(tmp_path, bits):
    colour, other = (1, 2, 3), (1, 2, 2**bits - 1)
    row = struct.pack('>6' + 'BH'[bits > 8], *colour, *other)
    write_png(tmp_path / 'a.png', (1, 2), bits, 2, bytes(1) + row, tRNS=struct.pack('>3H', *colour))
    picture, _ = read_image(tmp_path / 'a.png')
    assert picture.bits == bits and samples_in(picture.alpha).ravel().tolist() == [0, 255]
    assert samples_in(picture.rgb, 2**bits - 1)[0].tolist() == [list(other)] * 2


def write_png(path, size, depth, colour_type, data, **chunks):
    """A PNG from its parts: `data`, rows with their filters; `chunks` by name."""
    header = struct.pack('>LLBBBBB', *size[::-1], depth, colour_type, 0, 0, 0)
    parts = {'IHDR': header, **chunks, 'IDAT': zlib.compress(data), 'IEND': b''}
    path.write_bytes(
        b'\x89PNG\r\n\x1a\n'
        + b''.join(
            struct.pack('>L', len(data)) + name.encode() + data + struct.pack('>L', zlib.crc32(name.encode() + data))
            for name, data in parts.items()
        )
    )


# ---------------------------------------------------------------- TIFF, of which tifffile knows more kinds


@pytest.mark.parametrize('order', '<>')
@pytest.mark.parametrize('compression', [None, 'zlib'])
@pytest.mark.parametrize('tile', [None, (16, 16)])
@pytest.mark.parametrize('channels', [1, 2, 3, 4])
@pytest.mark.parametrize('bits', [8, 16])
def test_tiff_by_another_program(tmp_path, order, compression, tile, channels, bits):
    samples = random_samples(channels, f'u{bits // 8}')
    write_tiff(tmp_path / 'a.tif', samples, byteorder=order, compression=compression, tile=tile)
    picture, notes = read_image(tmp_path / 'a.tif')
    assert (picture.bits, picture.grey, notes) == (bits, channels <= 2, [])
    expected = picture_of(samples)
    assert (picture.alpha is None) == (expected.alpha is None)
    seen = 1 if picture.alpha is None else picture.alpha > 0
    assert torch.equal(picture.rgb * seen, expected.rgb * seen)
    assert picture.alpha is None or torch.equal(picture.alpha, expected.alpha)


@pytest.mark.parametrize('channels', [2, 4])
@pytest.mark.parametrize('bits, slack', [(8, 1 / 255), (16, 1e-5)])
def test_colour_multiplied_by_alpha_is_divided(tmp_path, channels, bits, slack):
    samples = random_samples(channels, f'u{bits // 8}')
    alpha = samples[..., -1:] = samples[..., -1:] | 1
    write_tiff(tmp_path / 'a.tif', np.minimum(samples, alpha), extrasamples=['assocalpha'])
    picture, _ = read_image(tmp_path / 'a.tif')
    expected = np.minimum(samples, alpha) / alpha
    assert np.abs(picture.rgb[: channels - 1].permute(1, 2, 0).numpy() - expected[..., :-1]).max() <= slack


@pytest.mark.parametrize('order', '<>')
@pytest.mark.parametrize('bits', [8, 16])
def test_grey_whose_0_is_white(tmp_path, order, bits):
    samples = random_samples(1, f'u{bits // 8}')
    write_tiff(tmp_path / 'a.tif', samples, photometric='miniswhite', byteorder=order)
    picture, _ = read_image(tmp_path / 'a.tif')
    assert picture.bits == bits and (samples_in(picture.rgb, 2**bits - 1)[..., 0] == 2**bits - 1 - samples).all()


@pytest.mark.parametrize('compression', [None, 'zlib', 'lzw'])
@pytest.mark.parametrize('tile', [None, (16, 16)])
@pytest.mark.parametrize('channels', [2, 3, 4])
@pytest.mark.parametrize('bits', [8, 16])
def test_tiff_in_planes(tmp_path, compression, tile, channels, bits):
    samples = random_samples(channels, f'u{bits // 8}')
    kind = {'planarconfig': 'separate', 'photometric': 'minisblack' if channels == 2 else 'rgb'}
    if channels != 3:
        kind['extrasamples'] = ['unassalpha']
    write_tiff(tmp_path / 'a.tif', np.moveaxis(samples, -1, 0), compression=compression, tile=tile, **kind)
    picture, notes = read_image(tmp_path / 'a.tif')
    expected, seen = picture_of(samples), 1 if channels == 3 else picture.alpha > 0
    assert (picture.bits, notes) == (bits, []) and torch.equal(picture.rgb * seen, expected.rgb * seen)
    assert channels == 3 or torch.equal(picture.alpha, expected.alpha)


@pytest.mark.parametrize('planar', ['contig', 'separate'])
def test_cmyk_of_16_bits_is_read_with_8_and_said_so(tmp_path, planar):
    samples = np.full((*SIZE, 4), [0, 65535, 0, 0], np.uint16)
    stored = np.moveaxis(samples, -1, 0) if planar == 'separate' else samples
    tifffile.imwrite(tmp_path / 'a.tif', stored, photometric='separated', planarconfig=planar, metadata=None)
    picture, notes = read_image(tmp_path / 'a.tif')
    assert '8 are read' in notes[0] and 'CMYK' in notes[1] and picture.bits == 8
    assert samples_in(picture.rgb)[0, 0].tolist() == [255, 0, 255]


@pytest.mark.parametrize('compression', ['lzw', 'packbits', 'zstd', 'lzma'])
@pytest.mark.parametrize('bigtiff', [False, True])
def test_16_bit_tiff_however_it_is_compressed(tmp_path, compression, bigtiff):
    samples = random_samples(3, np.uint16, (40, 30))
    options = {'compression': compression, 'predictor': compression != 'packbits', 'rowsperstrip': 7}
    tifffile.imwrite(tmp_path / 'a.tif', samples, photometric='rgb', bigtiff=bigtiff, metadata=None, **options)
    picture, notes = read_image(tmp_path / 'a.tif')
    assert notes == [] and (samples_in(picture.rgb, 65535) == samples).all()


@pytest.mark.parametrize('bits', [10, 12, 14])
def test_samples_between_8_and_16_bits_fill_the_range(tmp_path, bits):
    samples = random_samples(1, np.uint16) >> (16 - bits)
    samples[0, :2] = 0, 2**bits - 1
    packed = np.concatenate([(samples[..., None] >> np.arange(bits)[::-1]) & 1], axis=-1).astype(np.uint8)
    rows = b''.join(np.packbits(row.ravel()).tobytes() for row in packed)
    short, long = exif.short, exif.long
    tags = {256: 7, 257: 5, 258: bits, 259: 1, 262: 1, 273: 8, 277: 1, 278: 5, 279: len(rows)}
    tags = {tag: (long if tag in (273, 279) else short)('<', value) for tag, value in tags.items()}
    start = 8 + len(rows) + len(rows) % 2
    content = exif.head('<', start) + rows + bytes(len(rows) % 2) + exif.encode_directory(tags, '<', start)
    (tmp_path / 'a.tif').write_bytes(content)
    picture, notes = read_image(tmp_path / 'a.tif')
    assert picture.bits == 16 and notes == []
    assert np.abs(picture.rgb[0].numpy() - samples / (2**bits - 1)).max() < 1e-5


@pytest.mark.parametrize(
    'dtype, said',
    [
        ('f4', 'floating-point numbers of 32 bits'),
        ('f8', 'floating-point numbers of 64 bits'),
        ('f2', 'floating-point numbers of 16 bits'),
        ('i1', 'signed whole numbers of 8 bits'),
        ('i2', 'signed whole numbers of 16 bits'),
        ('i4', 'signed whole numbers of 32 bits'),
        ('u4', 'whole numbers of 32 bits'),
        ('c8', 'complex numbers of 64 bits'),
    ],
)
@pytest.mark.parametrize('channels', [1, 3])
def test_samples_of_other_kinds_are_refused_by_name(tmp_path, dtype, said, channels):
    samples = np.full(SIZE if channels == 1 else (*SIZE, 3), 0.5 if dtype[0] in 'fc' else 5, dtype)
    for bigtiff in (False, True):
        write_tiff(tmp_path / 'a.tif', samples, bigtiff=bigtiff)
        with pytest.raises(UserError, match=f'its samples are {said}; saved as whole numbers') as caught:
            read_image(tmp_path / 'a.tif')
        assert one_line(caught)
        with pytest.raises(UserError, match=said):
            read_rgb(tmp_path / 'a.tif')


@pytest.mark.parametrize('channels', [1, 2, 3, 4])
@pytest.mark.parametrize('bits', [8, 16])
def test_what_sets_are_read_as(tmp_path, channels, bits):
    """16 bits are rounded to 8, alpha is dropped, grey becomes three channels; from a path and from an open file."""
    samples = random_samples(channels, f'u{bits // 8}')
    tifffile.imwrite(
        tmp_path / 'a.tif',
        samples,
        photometric='minisblack' if channels <= 2 else 'rgb',
        extrasamples=['unassalpha'] if channels in (2, 4) else None,
        metadata=None,
    )
    colour = samples.reshape(*SIZE, -1)[..., : 1 if channels <= 2 else 3]
    expected = np.broadcast_to(np.floor(colour / (257 if bits == 16 else 1) + 0.5), (*SIZE, 3))
    with open(tmp_path / 'a.tif', 'rb') as file:
        for result in (read_rgb(tmp_path / 'a.tif'), read_rgb(file, 'in the archive')):
            assert result.dtype == np.uint8 and result.flags.c_contiguous and (result == expected).all()
    with pytest.raises(UserError, match='in the archive: not an image'):
        read_rgb(io.BytesIO(b'words'), 'in the archive')


def test_other_channels_are_left_out_and_said_so(tmp_path):
    samples = random_samples(4, np.uint16)
    write_tiff(tmp_path / 'a.tif', samples, extrasamples=['unspecified'])
    picture, notes = read_image(tmp_path / 'a.tif')
    assert picture.alpha is None and 'channels' in notes[0]
    assert (samples_in(picture.rgb, 65535) == samples[..., :3]).all()


@pytest.mark.parametrize('channels', [1, 2, 3, 4])
@pytest.mark.parametrize('bits', [8, 16])
def test_another_program_reads_our_tiff(tmp_path, channels, bits):
    samples = random_samples(channels, f'u{bits // 8}')
    write_image(tmp_path / 'a.tif', picture_of(samples, dpi=(300.0, 150.0), icc=PROFILE))
    with tifffile.TiffFile(tmp_path / 'a.tif') as file:
        assert (file.pages[0].asarray() == samples).all() and file.pages[0].iccprofile == PROFILE
        assert file.pages[0].resolution == (300, 150) and len(file.pages) == 1


def write_tiff(path, samples, **kind):
    """A TIFF of samples (H, W), (H, W, C) or, in planes, (C, H, W); `kind`: arguments of tifffile."""
    channels = samples.shape[2] if samples.ndim == 3 and 'planarconfig' not in kind else 1
    kind = {'photometric': 'minisblack' if channels <= 2 else 'rgb', **kind}
    if channels in (2, 4):
        kind = {'extrasamples': ['unassalpha'], **kind}
    tifffile.imwrite(path, samples, metadata=None, predictor=bool(kind.get('compression')), **kind)


# ---------------------------------------------------------------- CMYK


def test_cmyk_comes_as_rgb(tmp_path):
    Image.new('CMYK', (8, 8), (255, 0, 0, 0)).save(tmp_path / 'a.jpg', quality=100)
    picture, notes = read_image(tmp_path / 'a.jpg')
    assert np.abs(samples_in(picture.rgb) - [0, 255, 255]).max() <= 2 and not picture.grey
    assert notes == ['CMYK is converted to RGB without a colour profile']
    Image.new('CMYK', (8, 8), (255, 0, 0, 0)).save(tmp_path / 'a.tif', icc_profile=PROFILE)  # one of RGB
    picture, notes = read_image(tmp_path / 'a.tif')
    assert notes == ['CMYK is converted to RGB without a colour profile'] and picture.icc is None


def test_cmyk_is_converted_by_its_profile(tmp_path, monkeypatch):
    def convert(image, source, target, outputMode):
        assert source.read() == b'inks' and outputMode == 'RGB'
        return Image.new('RGB', image.size, 'red')

    monkeypatch.setattr(ImageCms, 'profileToProfile', convert)
    Image.new('CMYK', (8, 8)).save(tmp_path / 'a.tif', icc_profile=b'inks')
    picture, notes = read_image(tmp_path / 'a.tif')
    assert samples_in(picture.rgb)[0, 0].tolist() == [255, 0, 0] and picture.icc is None
    assert notes == ['CMYK is converted to sRGB by its colour profile']


@pytest.mark.parametrize('format', ['BMP', 'GIF', 'PNG', 'TIFF', 'WEBP'])
def test_lossless_formats_by_content_not_by_name(tmp_path, format):
    samples = random_samples(3) // 64 * 64
    path = tmp_path / 'misnamed.jpg'
    Image.fromarray(samples).save(path, format, lossless=True)
    assert (samples_in(read_image(path)[0].rgb) == samples).all()


def test_only_the_first_frame_is_used_and_said_so(tmp_path):
    frames = [Image.new('RGB', (4, 4), colour) for colour in ('red', 'blue')]
    frames[0].save(tmp_path / 'a.tiff', save_all=True, append_images=frames[1:])
    picture, notes = read_image(tmp_path / 'a.tiff')
    assert samples_in(picture.rgb)[0, 0].tolist() == [255, 0, 0] and '2 frames' in notes[0]


@pytest.mark.parametrize('suffix', ['.png', '.tiff'])
def test_16_bit_grey(tmp_path, suffix):
    samples = random_samples(1, np.uint16)
    Image.fromarray(samples).save(tmp_path / f'a{suffix}')
    picture, notes = read_image(tmp_path / f'a{suffix}')
    assert (picture.grey, picture.bits, notes) == (True, 16, [])
    assert (samples_in(picture.rgb[:1], 65535)[..., 0] == samples).all()


def test_16_bit_transparent_colour(tmp_path):
    samples = random_samples(1, np.uint16)
    samples[2, 3] = 4321
    rows = b''.join(bytes(1) + row.astype('>u2').tobytes() for row in samples)
    write_png(tmp_path / 'a.png', SIZE, 16, 0, rows, tRNS=struct.pack('>H', 4321))
    picture, _ = read_image(tmp_path / 'a.png')
    assert picture.bits == 16
    assert (samples_in(picture.alpha, 65535)[..., 0] == np.where(samples == 4321, 0, 65535)).all()


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('bits', [8, 16])
def test_exif_orientation(tmp_path, orientation, bits):
    image = Image.fromarray(random_samples(1, np.uint8 if bits == 8 else np.uint16))
    data = Image.Exif()
    data[exif.ORIENTATION] = orientation
    image.save(tmp_path / 'a.png', exif=data)
    with Image.open(tmp_path / 'a.png') as stored:
        expected = np.asarray(ImageOps.exif_transpose(stored))
    assert (samples_in(read_image(tmp_path / 'a.png')[0].rgb, 2**bits - 1)[..., 0] == expected).all()


def test_turned_tiff_is_turned_once(tmp_path):
    samples = random_samples(3)
    Image.fromarray(samples).save(tmp_path / 'a.tiff', tiffinfo={exif.ORIENTATION: 6})
    assert (samples_in(read_image(tmp_path / 'a.tiff')[0].rgb) == np.rot90(samples, -1)).all()


# ---------------------------------------------------------------- there and back


@QUICK
@given(
    st.sampled_from(['.png', '.tif']),
    st.sampled_from([8, 16]),
    st.integers(1, 4),
    st.integers(1, 9),
    st.integers(1, 9),
    st.data(),
)
def test_png_and_tiff_keep_every_sample(tmp_path, suffix, bits, channels, height, width, data):
    samples = data.draw(arrays(np.uint8 if bits == 8 else np.uint16, (channels, height, width)))
    picture = picture_of(samples.transpose(1, 2, 0), icc=PROFILE, dpi=(300.0, 300.0))
    assert write_image(tmp_path / f'a{suffix}', picture) == []
    again, notes = read_image(tmp_path / f'a{suffix}')
    assert notes == [] and (again.grey, again.bits, again.icc) == (picture.grey, picture.bits, picture.icc)
    assert again.dpi == pytest.approx((300, 300), abs=0.01)
    if picture.alpha is None:
        assert torch.equal(again.rgb, picture.rgb) and again.alpha is None
    else:
        seen = picture.alpha > 0
        assert torch.equal(again.rgb * seen, picture.rgb * seen) and torch.equal(again.alpha, picture.alpha)


@pytest.mark.parametrize('channels', [1, 2, 3, 4])
def test_16_bit_png_is_one_that_others_read(tmp_path, channels):
    samples = random_samples(channels, np.uint16).reshape(*SIZE, channels)
    write_image(tmp_path / 'a.png', picture_of(samples))
    with Image.open(tmp_path / 'a.png') as image:
        image.verify()
    with Image.open(tmp_path / 'a.png') as image:
        read = np.asarray(image)
    if channels == 1:
        assert (read == samples[..., 0]).all()
    else:
        assert (read == (samples >> 8)[..., [0, 0, 0, 1] if channels == 2 else range(channels)]).all()


@pytest.mark.parametrize('suffix, mode', [('.jpg', 'L'), ('.jpeg', 'L'), ('.bmp', 'L'), ('.tif', 'LA')])
def test_grey_stays_grey_where_the_format_knows_it(tmp_path, suffix, mode):
    alpha = torch.ones(1, 6, 6) if 'A' in mode else None
    write_image(tmp_path / f'a{suffix}', Picture(torch.rand(1, 6, 6).repeat(3, 1, 1), alpha, grey=True))
    with Image.open(tmp_path / f'a{suffix}') as image:
        assert image.mode == mode


def test_colour_profile_is_kept(tmp_path):
    for suffix in ('.png', '.jpg', '.webp', '.tif'):
        write_image(tmp_path / f'a{suffix}', Picture(torch.rand(3, 4, 4), icc=PROFILE))
        assert read_image(tmp_path / f'a{suffix}')[0].icc == PROFILE
    assert 'profile' in write_image(tmp_path / 'a.bmp', Picture(torch.rand(3, 4, 4), icc=PROFILE))[0]


def test_what_a_format_cannot_hold_is_noted(tmp_path):
    notes = write_image(tmp_path / 'a.jpg', Picture(torch.zeros(3, 8, 8), torch.zeros(1, 8, 8), bits=16))
    assert len(notes) == 2 and 'alpha' in notes[0] and '8 bits' in notes[1]
    assert samples_in(read_image(tmp_path / 'a.jpg')[0].rgb).min() >= 254  # transparent black over white


def test_values_are_clamped_and_rounded(tmp_path):
    write_image(tmp_path / 'a.png', Picture(torch.tensor([-1.0, 0.4999 / 255, 0.5001 / 255, 2.0]).expand(3, 1, 4)))
    assert samples_in(read_image(tmp_path / 'a.png')[0].rgb)[0, :, 0].tolist() == [0, 0, 1, 255]


# ---------------------------------------------------------------- what lies under transparency


def test_hidden_colour_is_that_of_what_is_near():
    rgb, alpha = torch.zeros(3, 9, 12), torch.zeros(1, 9, 12)
    rgb[:, :, :5], rgb[0, :, 7:] = 0.5, 1
    alpha[:, :, 1:5], alpha[:, :, 7:] = 1, 0.25
    filled = with_colour_everywhere(rgb, alpha)
    assert torch.equal(filled * (alpha > 0), rgb * (alpha > 0))
    assert (filled[:, :, 0] - 0.5).abs().max() < 0.2 and (filled[0, :, 5:7] >= 0.5 - 1e-6).all()
    assert filled.min() >= 0 and filled.max() <= 1 + 1e-6


@QUICK
@given(st.integers(1, 9), st.integers(1, 9), st.data())
def test_hidden_colour_stays_between_those_that_are_seen(height, width, data):
    alpha = torch.from_numpy(data.draw(arrays(np.uint8, (1, height, width)))) / 255
    rgb = torch.rand(3, height, width)
    filled = with_colour_everywhere(rgb, alpha)
    seen = (alpha > 0).expand_as(rgb)
    assert torch.equal(filled[seen], rgb[seen])
    if seen.any():
        assert filled.min() >= rgb[seen].min() - 1e-5 and filled.max() <= rgb[seen].max() + 1e-5
    else:
        assert torch.equal(filled, rgb)


def test_nothing_bleeds_into_the_edges(tmp_path):
    samples = np.zeros((12, 12, 4), np.uint8)
    samples[3:9, 3:9] = (200, 100, 50, 255)  # on black that is transparent
    Image.fromarray(samples).save(tmp_path / 'a.png')
    picture, _ = read_image(tmp_path / 'a.png')
    result = Upscaler(models.load('bicubic'), torch.device('cpu'))(picture, (30, 30))
    seen = (result.alpha > 0.01).expand_as(result.rgb)
    assert (result.rgb - torch.tensor([200, 100, 50])[:, None, None] / 255).abs()[seen].max() < 1e-3


# ---------------------------------------------------------------- what else a file tells

GPS_TAGS = {1: 'N', 2: (52.0, 30.0, 1.5), 3: 'E', 4: (13.0, 22.0, 0.0)}
PHOTO_TAGS = {
    0x829A: 0.004,
    0x9003: '2024:05:06 07:08:09',
    0x9286: b'ASCII\0\0\0words',
    exif.WIDTH: 7,
    exif.HEIGHT: 5,
}


def camera_data(order='II', **more):
    """The bytes of EXIF data that hold `PHOTO_TAGS` and `GPS_TAGS`; `more` in the first of them, by `t` and number."""
    order = '<' if order == 'II' else '>'

    def text(words):
        return 2, len(words) + 1, words.encode() + b'\0'

    def fractions(*values):
        return 5, len(values), b''.join(struct.pack(order + '2L', round(1000 * value), 1000) for value in values)

    photo = {tag: value for tag, value in PHOTO_TAGS.items() if isinstance(value, int)}
    photo = {tag: exif.long(order, value) for tag, value in photo.items()}
    photo |= {0x829A: fractions(0.004), 0x9003: text(PHOTO_TAGS[0x9003]), 0x9286: exif.undefined(PHOTO_TAGS[0x9286])}
    gps = {1: text('N'), 2: fractions(*GPS_TAGS[2]), 3: text('E'), 4: fractions(*GPS_TAGS[4])}
    tags = {0x010F: text('Camera'), 0x0110: text('Two'), 0x8298: text('Copyright of nobody'), 0x011A: fractions(72)}
    tags |= {exif.ORIENTATION: exif.short(order, 6), exif.GPS: gps}
    tags[exif.PHOTO] = {**photo, **{int(name[1:]): value for name, value in more.items()}}
    return b'Exif\0\0' + exif.encode(exif.Exif(order, tags))


@pytest.mark.parametrize('source', ['.jpg', '.png', '.webp'])
@pytest.mark.parametrize('target', ['.jpg', '.png', '.webp', '.tif'])
@pytest.mark.parametrize('order', ['II', 'MM'])
def test_exif_data_are_kept(tmp_path, source, target, order):
    samples = np.zeros((*SIZE, 3), np.uint8)
    Image.fromarray(samples).save(tmp_path / f'a{source}', exif=camera_data(order), dpi=(300, 200))
    picture, notes = read_image(tmp_path / f'a{source}')
    assert notes == [] and picture.rgb.shape[1:] == SIZE[::-1]
    assert picture.dpi == (None if source == '.webp' else pytest.approx((300, 200), abs=0.01))
    larger = picture._replace(rgb=torch.rand(3, 20, 10))
    assert write_image(tmp_path / f'b{target}', larger) == []
    with Image.open(tmp_path / f'b{target}') as image:
        data = image.getexif()
        assert data[0x010F] == 'Camera' and data[0x8298] == 'Copyright of nobody' and data[exif.ORIENTATION] == 1
        assert data.get_ifd(exif.GPS) == GPS_TAGS
        assert data.get_ifd(exif.PHOTO) == {**PHOTO_TAGS, exif.WIDTH: 10, exif.HEIGHT: 20}
        if picture.dpi and target == '.webp':
            assert (data[0x011A], data[0x011B]) == pytest.approx((300, 200), abs=0.01) and data[0x0128] == 2
        elif picture.dpi:
            assert image.info['dpi'] == pytest.approx((300, 200), abs=0.01)
    again, notes = read_image(tmp_path / f'b{target}')
    assert notes == [] and again.rgb.shape[1:] == (20, 10) and again.exif.order == picture.exif.order
    resolution = {*exif.RESOLUTION, exif.RESOLUTION_UNIT}
    tags, expected = (
        {tag: value for tag, value in data.tags.items() if tag not in resolution}
        for data in (again.exif, exif.with_size(picture.exif, (20, 10)))
    )
    assert tags == expected


def test_what_depends_on_size_and_place_is_left_out(tmp_path):
    data = camera_data()
    body = exif.read(io.BytesIO(data.removeprefix(b'Exif\0\0')))[0]
    block = bytearray(exif.encode(body))
    at = 8 + 2 + 12 * len(body.tags)
    block[at : at + 4] = struct.pack('<L', len(block))
    Image.new('RGB', (4, 4)).save(tmp_path / 'a.jpg', exif=b'Exif\0\0' + bytes(block) + bytes(6))
    assert read_image(tmp_path / 'a.jpg')[1] == ['not kept: thumbnail']
    places = {f't{tag}': exif.short('<', 3, 4) for tag in (0x9214, 0xA214, 0xA20E, 0xA20F)}
    data = camera_data(**places, t37500=exif.undefined(b'maker\0\1\2'))
    Image.new('RGB', (4, 4)).save(tmp_path / 'a.jpg', exif=data)
    picture, notes = read_image(tmp_path / 'a.jpg')
    said = {'FocalPlaneXResolution', 'FocalPlaneYResolution', 'MakerNote', 'SubjectLocation'}
    (note,) = notes  # the names of the two tags of the subject's place depend on Pillow
    assert note.startswith('not kept: ') and said <= {name.strip() for name in note[10:].split(',')}
    assert set(picture.exif.tags[exif.PHOTO]) == set(PHOTO_TAGS)


@pytest.mark.parametrize('program', ['imagej', 'ome', 'shaped', 'words'])
def test_descriptions_of_a_stack_are_left_out(tmp_path, program):
    stack = np.zeros((4, *SIZE), np.uint8)
    if program == 'words':
        tifffile.imwrite(tmp_path / 'a.tif', stack, description='A cat', metadata=None)
    else:
        tifffile.imwrite(tmp_path / 'a.tif', stack, **({} if program == 'shaped' else {program: True}))
    picture, notes = read_image(tmp_path / 'a.tif')
    lost = any('ImageDescription' in note for note in notes)
    assert lost == (program != 'words') == (picture.exif is None or exif.DESCRIPTION not in picture.exif.tags)
    write_image(tmp_path / 'b.tif', picture)
    with tifffile.TiffFile(tmp_path / 'b.tif') as file:
        assert len(file.pages) == 1 and not file.is_imagej and not file.is_ome
        assert 'A cat' in file.pages[0].description or lost


@pytest.mark.parametrize('order', '<>')
@pytest.mark.parametrize('dtype', ['u1', 'u2'])
def test_bigtiff_is_read_with_what_it_tells(tmp_path, order, dtype):
    samples = random_samples(3, dtype)
    tags = [(0x010F, 's', 0, 'Camera', True), (0x8298, 's', 0, 'Copyright of nobody', True)]
    options = {
        'bigtiff': True,
        'byteorder': order,
        'resolution': (300, 150),
        'resolutionunit': 2,
        'iccprofile': PROFILE,
    }
    tifffile.imwrite(tmp_path / 'a.tif', samples, photometric='rgb', metadata=None, extratags=tags, **options)
    picture, notes = read_image(tmp_path / 'a.tif')
    assert notes == [] and (samples_in(picture.rgb, np.iinfo(dtype).max) == samples).all()
    assert picture.icc == PROFILE and picture.dpi == (300, 150) and picture.exif.order == order
    assert picture.exif.tags[0x010F] == (2, 7, b'Camera\0') and picture.exif.tags[0x8298][2] == b'Copyright of nobody\0'
    write_image(tmp_path / 'b.jpg', picture)
    with Image.open(tmp_path / 'b.jpg') as image:
        assert image.getexif()[0x010F] == 'Camera' and image.getexif()[0x8298] == 'Copyright of nobody'


def test_damaged_exif_data_are_left_out(tmp_path):
    for block in (b'Exif\0\0', b'Exif\0\0II*\0', b'Exif\0\0' + b'\xff' * 40, b'Exif\0\0II*\0\x08\0\0\0\x09\0abc'):
        Image.new('RGB', (4, 4)).save(tmp_path / 'a.jpg', exif=block)
        picture, notes = read_image(tmp_path / 'a.jpg')
        assert picture.exif is None and (notes[:1] == ['not kept: damaged EXIF data'] or block == b'Exif\0\0')
    data = bytearray(camera_data())
    data[-40:] = b''
    Image.new('RGB', (4, 4)).save(tmp_path / 'a.jpg', exif=bytes(data))
    picture, notes = read_image(tmp_path / 'a.jpg')
    assert notes[0].startswith('not kept: ') and 0x010F in picture.exif.tags


@QUICK
@given(st.binary(max_size=200), st.sampled_from([b'II*\0', b'MM\0*']))
def test_exif_data_are_read_or_refused(noise, start):
    try:
        data, lost = exif.read(io.BytesIO(start + noise))
    except ValueError:
        return
    again, lost = exif.read(io.BytesIO(exif.encode(data)))
    assert again == data and lost == []


@pytest.mark.parametrize(
    'name, keywords, said',
    [
        ('a.png', {'pnginfo': 'text'}, 'text'),
        ('a.jpg', {'comment': b'words'}, 'comment'),
        ('a.gif', {'comment': b'words'}, 'comment'),
        ('a.webp', {'xmp': b'<x/>'}, 'XMP'),
        ('a.tif', {'tiffinfo': {700: b'<x/>', 33550: (1.0, 2.0, 3.0)}}, 'XMP'),
    ],
)
def test_what_is_not_kept_is_noted(tmp_path, name, keywords, said):
    if keywords.get('pnginfo'):
        keywords = {'pnginfo': PngImagePlugin.PngInfo()}
        keywords['pnginfo'].add_text('Title', 'words')
    Image.new('L', (3, 3)).save(tmp_path / name, **keywords)
    notes = read_image(tmp_path / name)[1]
    assert len(notes) == 1 and notes[0].startswith('not kept: ') and said in notes[0]


def test_what_a_format_cannot_tell_is_noted(tmp_path):
    picture = Picture(torch.rand(3, 4, 4), icc=PROFILE, exif=exif.Exif('<', {0x010E: exif.undefined(bytes(70000))}))
    assert [len(write_image(tmp_path / f'a{suffix}', picture)) for suffix in ('.jpg', '.bmp', '.png')] == [1, 2, 0]
    grey = PROFILE[:16] + b'GRAY' + PROFILE[20:]
    assert 'profile' in write_image(tmp_path / 'a.webp', Picture(torch.zeros(3, 4, 4), grey=True, icc=grey))[0]


@pytest.mark.parametrize('dpi', [(0, 0), (1, 1), (1e9, 300)])
def test_resolutions_that_are_none(tmp_path, dpi):
    Image.new('L', (3, 3)).save(tmp_path / 'a.tif', tiffinfo={282: dpi[0], 283: dpi[1], 296: 2})
    picture, _ = read_image(tmp_path / 'a.tif')
    assert picture.dpi is None
    for suffix in image_io.FORMATS:
        write_image(tmp_path / f'b{suffix}', picture)


def test_damaged_profile_is_left_out(tmp_path):
    Image.new('L', (3, 3)).save(tmp_path / 'a.png', icc_profile=b'no profile')
    picture, notes = read_image(tmp_path / 'a.png')
    assert picture.icc is None and notes == ['the colour profile is damaged and left out']


# ---------------------------------------------------------------- in strips


@QUICK
@given(
    st.sampled_from(sorted(image_io.FORMATS)),
    st.sampled_from([8, 16]),
    st.integers(1, 4),
    st.integers(1, 9),
    st.integers(1, 5),
    st.integers(1, 200),
)
def test_strips_make_the_same_file_as_the_whole(tmp_path, suffix, bits, channels, height, high, at_once):
    picture = picture_of(random_samples(channels, f'u{bits // 8}', (height, 6)), dpi=(72.0, 96.0))
    planes = picture.rgb if picture.alpha is None else torch.cat([picture.rgb, picture.alpha])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_files, 'AT_ONCE', at_once)
        patch.setattr(image_io, 'ROWS', at_once)
        notes = write_image(tmp_path / f'whole{suffix}', picture)
        with open_writer(tmp_path / f'strips{suffix}', (height, 6), picture) as writer:
            for rows in planes.split(high, dim=1):
                writer.write(rows)
        whole, strips = (read_image(tmp_path / f'{name}{suffix}') for name in ('whole', 'strips'))
    assert torch.equal(whole[0].rgb, strips[0].rgb) and whole[0].dpi == strips[0].dpi and whole[1] == strips[1] == []
    assert writer.notes == notes


@pytest.mark.parametrize('suffix', sorted(image_io.FORMATS))
def test_a_large_image_of_a_format_without_strips_is_said_to_be_kept(tmp_path, monkeypatch, suffix):
    picture, notes = Picture(torch.zeros(3, 20, 10)), []
    for large in (20 * 10 * 3, 20 * 10 * 3 - 1):
        monkeypatch.setattr(image_io, 'LARGE', large)
        notes.append(write_image(tmp_path / f'a{suffix}', picture))
    in_memory = suffix not in ('.png', '.tif', '.tiff')
    assert notes[0] == [] and len(notes[1]) == in_memory and all('kept in memory' in note for note in notes[1])


@pytest.mark.parametrize('suffix', ['.png', '.tif', '.jpg'])
def test_strips_that_stop_leave_nothing(tmp_path, suffix):
    picture = Picture(torch.zeros(3, 4, 4))
    with pytest.raises(ZeroDivisionError):
        with open_writer(tmp_path / f'a{suffix}', (4, 4), picture) as writer:
            writer.write(picture.rgb[:, :2])
            assert len(list(tmp_path.iterdir())) == 1
            1 / 0
    with pytest.raises(UserError, match='2 rows of 4'):
        with open_writer(tmp_path / f'a{suffix}', (4, 4), picture) as writer:
            writer.write(picture.rgb[:, :2])
    assert list(tmp_path.iterdir()) == []


def test_a_tiff_of_more_than_4_gib_is_refused_beforehand(tmp_path):
    with pytest.raises(UserError, match='a.tif: a TIFF holds at most 4 GiB'):
        with open_writer(tmp_path / 'a.tif', (30_000, 30_000), Picture(torch.zeros(3, 1, 1), bits=16)):
            pass
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- bad input


def one_line(caught):
    return '\n' not in str(caught.value) and str(caught.value)


def test_missing_files_and_folders(tmp_path):
    for path, said in ((tmp_path / 'none.png', 'no such file'), (tmp_path, 'not an image file')):
        with pytest.raises(UserError, match=said) as caught:
            read_image(path)
        assert str(path) in one_line(caught)


@pytest.mark.parametrize(
    'content',
    [
        b'',
        b'\0' * 100,
        b'\x89PNG\r\n\x1a\n',
        b'GIF89a',
        b'II*\0',
        b'II*\0\x08\0\0\0\xff\xff',
        b'BM' + b'\xff' * 60,
        b'RIFF\xff\xff\xff\xffWEBPVP8 ',
        b'\xff\xd8\xff\xe0',
        'Grüße'.encode(),
    ],
)
def test_what_is_no_image_is_refused(tmp_path, content):
    (tmp_path / 'a.png').write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_image(tmp_path / 'a.png')
    assert str(tmp_path / 'a.png') in one_line(caught)


@settings(QUICK, max_examples=150)
@given(st.sampled_from(['PNG', 'JPEG', 'WEBP', 'TIFF', 'BMP', 'GIF', 'PNG16']), st.data())
def test_damaged_images_are_read_or_refused(tmp_path, format, data):
    file = io.BytesIO()
    if format == 'PNG16':
        write_image(tmp_path / 'a.png', picture_of(random_samples(3, np.uint16)))
        file.write((tmp_path / 'a.png').read_bytes())
    else:
        Image.fromarray(random_samples(3)).save(file, format)
    content = bytearray(file.getvalue())
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / 'a'
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        picture, _ = read_image(path)
    except UserError as error:
        assert str(path) in str(error)
    else:
        assert picture.rgb.shape[0] == 3 and 0 <= picture.rgb.min() and picture.rgb.max() <= 1


def test_damaged_tiff_writes_nothing_of_its_own(tmp_path, capfd):
    Image.fromarray(random_samples(3)).save(tmp_path / 'a.tiff', compression='tiff_deflate')
    content = bytearray((tmp_path / 'a.tiff').read_bytes())
    content[12:40] = bytes(28)
    (tmp_path / 'a.tiff').write_bytes(content)
    with pytest.raises(UserError):
        read_image(tmp_path / 'a.tiff')
    assert capfd.readouterr() == ('', '')


def test_bomb_is_refused_and_the_limit_named(tmp_path):
    write_image(tmp_path / 'a.png', Picture(torch.zeros(3, 1, 1), bits=16))
    content = (tmp_path / 'a.png').read_bytes()
    header = content[12:16] + 2 * (100_000).to_bytes(4, 'big') + content[24:29]
    (tmp_path / 'a.png').write_bytes(content[:12] + header + zlib.crc32(header).to_bytes(4, 'big') + content[33:])
    with pytest.raises(UserError, match=f'{image_io.INPUT_LIMIT:,} pixels') as caught:
        read_image(tmp_path / 'a.png')
    assert one_line(caught)


def test_32_bit_samples_are_refused(tmp_path):
    Image.fromarray(np.zeros((3, 3), np.float32)).save(tmp_path / 'a.tiff')
    with pytest.raises(UserError, match='32 bits'):
        read_image(tmp_path / 'a.tiff')


@pytest.mark.parametrize(
    'name, size, said',
    [
        ('a.pngg', (1, 1), r"did you mean '\.png'"),
        ('a', (1, 1), 'known'),
        ('none/a.png', (1, 1), 'no folder'),
        ('folder.png', (1, 1), 'is a folder'),
        ('a.webp', (16384, 1), '16383'),
        ('a.jpg', (1, 65501), '65500'),
    ],
)
def test_impossible_outputs_are_refused_beforehand(tmp_path, name, size, said):
    (tmp_path / 'folder.png').mkdir()
    with pytest.raises(UserError, match=said) as caught:
        check_output(tmp_path / name, size)
    assert str(tmp_path / name) in one_line(caught)


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / 'a.jpg'
    write_image(path, Picture(torch.zeros(3, 4, 4)))
    before = path.read_bytes()

    def full(self, file, *_, **__):
        file.write(b'half')
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(Image.Image, 'save', full)
    with pytest.raises(UserError, match='No space left'):
        write_image(path, Picture(torch.ones(3, 4, 4)))
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ['a.jpg']


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
@pytest.mark.parametrize('colours, extra', [(1, 1), (1, 2), (1, 4), (3, 1), (3, 2), (3, 4)])
def test_channels_of_a_tiff_that_are_no_colour_are_left_out_and_told(tmp_path, dtype, colours, extra):
    samples = np.random.default_rng(0).integers(0, 255, (6, 7, colours + extra)).astype(dtype)
    kind = {'photometric': 'minisblack' if colours == 1 else 'rgb', 'extrasamples': ['unspecified'] * extra}
    tifffile.imwrite(tmp_path / 'a.tif', samples, planarconfig='contig', metadata=None, **kind)
    picture, notes = read_image(tmp_path / 'a.tif')
    assert picture.alpha is None and 'not kept: channels besides colour and alpha' in notes
    expected = np.broadcast_to(samples[..., :colours], (6, 7, 3)).transpose(2, 0, 1) / np.iinfo(dtype).max
    assert (picture.rgb.numpy() - expected).__abs__().max() <= 1e-6


def test_a_preview_before_the_image_is_not_taken_for_it(tmp_path):
    """Raw files of cameras have the image in a directory within the first one, some pyramids on the next page."""
    small, large = (np.random.default_rng(0).integers(0, 256, (n, n, 3), np.uint8) for n in (4, 16))
    for name, subifds in (('raw.dng', 1), ('pages.tif', 0)):
        with tifffile.TiffWriter(tmp_path / name) as file:
            file.write(small, photometric='rgb', subfiletype=1, subifds=subifds)
            file.write(large, photometric='rgb')
        with pytest.raises(UserError, match=f'{name}: begins with a small preview'):
            read_image(tmp_path / name)
    tifffile.imwrite(tmp_path / 'alone.tif', large, photometric='rgb', subfiletype=1)
    assert read_image(tmp_path / 'alone.tif')[0].rgb.shape == (3, 16, 16)


def test_later_pages_that_pillow_does_not_know_do_not_matter(tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (5, 6, 3), np.uint8)
    with tifffile.TiffWriter(tmp_path / 'a.tif') as file:
        file.write(colours, photometric='rgb', metadata=None)
        file.write(colours[..., 0] > 99, subfiletype=4, metadata=None)
    picture, notes = read_image(tmp_path / 'a.tif')
    assert (picture.rgb.permute(1, 2, 0).numpy() * 255 == colours).all() and 'only the first of' in notes[0]


@pytest.mark.parametrize('comment', [b'', b'# by a scanner\n'])
@pytest.mark.parametrize('largest, told', [(65535, True), (4095, True), (255, False)])
def test_a_colour_ppm_of_16_bits_is_read_with_8_and_said_so(tmp_path, comment, largest, told):
    samples = np.full((2, 3, 3), largest, '>u2' if told else 'u1').tobytes()
    (tmp_path / 'a.ppm').write_bytes(b'P6 %s3 2\n%d\n' % (comment and b'\n' + comment, largest) + samples)
    picture, notes = read_image(tmp_path / 'a.ppm')
    assert picture.rgb.min() == 1
    assert notes == ['of its 16 bits per sample, only 8 are read; of PNG and TIFF all are'] * told


def test_colours_of_another_kind_are_named(tmp_path):
    tifffile.imwrite(tmp_path / 'a.tif', np.zeros((4, 4, 3), np.uint8), photometric='icclab')
    with pytest.raises(UserError, match='a.tif: its colours are of the kind ICCLAB, with 8 bits'):
        read_image(tmp_path / 'a.tif')
