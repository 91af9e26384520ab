"""What says how colours are to be seen is kept where there is room for it, and said where there is none."""

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from datasets.pictures.colour import container_labels, to_srgb, unlike_srgb
from datasets.pictures.image_io import read_image, write_figure, write_image
from utils import UserError

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
DISPLAY_P3, HDR, AS_SRGB = bytes([12, 13, 0, 1]), bytes([9, 16, 0, 1]), bytes([1, 13, 0, 1])
LINEAR, GAMMA_SRGB = struct.pack('>L', 100000), struct.pack('>L', 45455)
CHROMATICITIES = struct.pack('>8L', 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
WIDE = struct.pack('>8L', 31270, 32900, 70800, 29200, 17000, 79700, 13100, 4600)


def write_png(path, chunks, bits=8):
    """A PNG of 2 x 2 pixels with the chunks (name, data) before its samples."""
    parts = [(b'IHDR', struct.pack('>LLBBBBB', 2, 2, bits, 2, 0, 0, 0)), *chunks]
    parts += [(b'IDAT', zlib.compress((bytes(1) + bytes(range(6 * bits // 8))) * 2)), (b'IEND', b'')]
    path.write_bytes(
        b'\x89PNG\r\n\x1a\n'
        + b''.join(
            struct.pack('>L', len(data)) + name + data + struct.pack('>L', zlib.crc32(name + data))
            for name, data in parts
        )
    )


def chunks_of(path):
    content, at, found = path.read_bytes(), 8, {}
    while at < len(content):
        length, name = struct.unpack('>L4s', content[at : at + 8])
        assert name == b'IDAT' or name not in found
        found[name], at = content[at + 8 : at + 8 + length], at + length + 12
    return found


@pytest.mark.parametrize('bits', [8, 16])
@pytest.mark.parametrize(
    'name, data, said',
    [
        (b'cICP', DISPLAY_P3, 'cICP'),
        (b'cICP', HDR, 'cICP'),
        (b'cICP', AS_SRGB, ''),
        (b'gAMA', LINEAR, 'gamma'),
        (b'gAMA', GAMMA_SRGB, ''),
        (b'cHRM', WIDE, 'cHRM'),
        (b'cHRM', CHROMATICITIES, ''),
        (b'sRGB', b'\1', ''),
        (b'mDCV', bytes(24), ''),
        (b'cLLI', bytes(8), ''),
    ],
)
def test_labels_are_kept_in_png_and_told_elsewhere_if_they_change_anything(tmp_path, bits, name, data, said):
    write_png(tmp_path / 'a.png', [(name, data)], bits)
    picture, notes = read_image(tmp_path / 'a.png')
    assert notes == [] and write_image(tmp_path / 'b.png', picture) == []
    assert chunks_of(tmp_path / 'b.png')[name] == data
    for suffix in ('.jpg', '.webp', '.tif', '.bmp'):
        told = [note for note in write_image(tmp_path / f'b{suffix}', picture) if 'bits' not in note]
        assert len(told) == bool(said) and all(said in note and 'look different' in note for note in told)


def test_a_label_that_another_one_overrides_is_not_told():
    labels = {'gAMA': LINEAR, 'cHRM': WIDE}
    assert len(unlike_srgb(labels, None)) == 2
    assert unlike_srgb(labels, SRGB) == unlike_srgb({**labels, 'sRGB': b'\0'}, None) == []
    assert len(unlike_srgb({**labels, 'cICP': HDR}, SRGB)) == 1 and unlike_srgb({**labels, 'cICP': AS_SRGB}, None) == []


@pytest.mark.parametrize('name, data', [(b'gAMA', b''), (b'gAMA', bytes(4)), (b'cHRM', b'\0'), (b'cICP', bytes(5))])
def test_damaged_labels_are_told(tmp_path, name, data):
    write_png(tmp_path / 'a.png', [(name, data)])
    try:
        picture, notes = read_image(tmp_path / 'a.png')
    except UserError:
        return  # Pillow's choice, by the version
    assert picture.labels == {} and notes == [f'not kept: damaged {name.decode()}']


def test_the_colour_space_of_avif_and_heic_becomes_a_label():
    def box(*values):
        return b'..colrnclx' + struct.pack('>HHHB', *values)

    assert container_labels(box(9, 16, 9, 128)) == {'cICP': HDR} and container_labels(box(12, 13, 6, 0)) == {
        'cICP': DISPLAY_P3
    }
    assert container_labels(box(1, 13, 6, 128)) == container_labels(box(2, 2, 2, 0)) == container_labels(b'') == {}


@pytest.mark.parametrize(
    'shape, told', [((2835, 2835, 1), False), ((2835, 5669, 1), False), ((1, 2, 0), True), ((1, 1, 0), False)]
)
def test_pixels_that_are_not_square_are_kept_or_told(tmp_path, shape, told):
    write_png(tmp_path / 'a.png', [(b'pHYs', struct.pack('>LLB', *shape))])
    picture, notes = read_image(tmp_path / 'a.png')
    assert notes == ['not kept: that its pixels are not square'] * told
    write_image(tmp_path / 'b.png', picture)
    assert shape[2] == 0 or chunks_of(tmp_path / 'b.png')[b'pHYs'] == struct.pack('>LLB', *shape)


@pytest.mark.parametrize('density, told', [((1, 2), True), ((1, 1), False)])
def test_jpegs_whose_pixels_are_not_square_are_told(tmp_path, density, told):
    Image.new('RGB', (8, 8)).save(tmp_path / 'a.jpg')
    content = (tmp_path / 'a.jpg').read_bytes()
    (tmp_path / 'a.jpg').write_bytes(content[:13] + struct.pack('>BHH', 0, *density) + content[18:])
    assert read_image(tmp_path / 'a.jpg')[1] == ['not kept: that its pixels are not square'] * told


SRGB_XYZ = [(0.4124, 0.2126, 0.0193), (0.3576, 0.7152, 0.1192), (0.1805, 0.0722, 0.9505)]  # IEC 61966-2-1


def bmp(kind, primaries=(0,) * 9, gammas=(0, 0, 0)):
    """One white pixel with a BITMAPV5HEADER."""
    header = struct.pack('<LllHHLLllLL', 124, 1, 1, 1, 24, 0, 4, 0, 0, 0, 0) + bytes(16) + kind
    header += struct.pack('<12L', *(round(v * 2**30) for v in primaries), *(round(v * 2**16) for v in gammas))
    return b'BM' + struct.pack('<LLL', 0, 0, 138) + header + bytes(16) + b'\xff\xff\xff\0'


@pytest.mark.parametrize(
    'primaries, gammas, gamma, unlike',
    [
        (sum(SRGB_XYZ, ()), (2.2, 2.2, 2.2), 45455, []),
        (sum(SRGB_XYZ[1:] + SRGB_XYZ[:1], ()), (1, 1, 1), 100000, ['the gamma', 'the primaries (cHRM)']),
        ((0,) * 9, (1.8, 1.8, 1.8), 55556, ['the gamma']),
        ((0,) * 9, (0, 0, 0), None, []),
    ],
)
def test_calibrated_colours_of_a_bmp_are_kept_in_a_png_or_told(tmp_path, primaries, gammas, gamma, unlike):
    (tmp_path / 'a.bmp').write_bytes(bmp(bytes(4), primaries, gammas))
    picture, notes = read_image(tmp_path / 'a.bmp')
    assert notes == [] and unlike_srgb(picture.labels, None) == unlike
    kept = picture.labels.get('gAMA')
    assert gamma is None and kept is None or abs(struct.unpack('>L', kept)[0] - gamma) <= 1
    assert write_image(tmp_path / 'a.png', picture) == []
    assert read_image(tmp_path / 'a.png')[0].labels == picture.labels
    assert len(write_image(tmp_path / 'b.bmp', picture)) == len(unlike[:1])


@pytest.mark.parametrize(
    'content, said',
    [(bmp(bytes(4), gammas=(1, 2.2, 1.8)), 'gammas of its three'), (bmp(b'KNIL'), 'file with its colour')],
)
def test_colours_of_a_bmp_that_no_png_can_hold_are_told(tmp_path, content, said):
    (tmp_path / 'a.bmp').write_bytes(content)
    picture, notes = read_image(tmp_path / 'a.bmp')
    assert picture.labels == {} and picture.icc is None and len(notes) == 1 and said in notes[0]


def test_the_profile_of_a_bmp_is_read(tmp_path):
    rows = bytes(range(12)) + bytes(range(24, 36))
    header = struct.pack('<LllHHLLllLL', 124, 4, 2, 1, 24, 0, len(rows), 2835, 2835, 0, 0) + bytes(16)
    header += b'DEBM' + bytes(48) + struct.pack('<LLLL', 4, 124 + len(rows), len(SRGB), 0)
    (tmp_path / 'a.bmp').write_bytes(b'BM' + struct.pack('<LLL', 0, 0, 138) + header + rows + SRGB)
    picture, notes = read_image(tmp_path / 'a.bmp')
    assert picture.icc == SRGB and notes == [] and (picture.rgb[:, 1, 0] * 255).tolist() == [2, 1, 0]
    assert write_image(tmp_path / 'b.bmp', picture) == ['BMP is written without the colour profile']


# ---------------------------------------------------------------- figures and animations


def wide_profile():
    """A profile like sRGB's with red and green changed, so that colours move."""
    profile = bytearray(SRGB)
    for number in range(struct.unpack('>L', profile[128:132])[0]):
        name, at, size = struct.unpack('>4sLL', profile[132 + 12 * number : 144 + 12 * number])
        if name == b'rXYZ':
            red = at
        if name == b'gXYZ':
            green = at
    profile[red : red + 20], profile[green : green + 20] = profile[green : green + 20], profile[red : red + 20]
    return bytes(profile)


def test_a_profile_is_applied():
    rgb = torch.tensor([0.8, 0.2, 0.4])[:, None, None].expand(3, 2, 2)
    assert (to_srgb(rgb, SRGB) - rgb).abs().max() < 2.5 / 255
    assert (to_srgb(rgb, wide_profile()) - rgb[[1, 0, 2]]).abs().max() < 2.5 / 255
    with pytest.raises(UserError, match='cannot be applied'):
        to_srgb(rgb, b'no profile')


def test_a_figure_is_written_as_it_is(tmp_path):
    figure = Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8))
    for suffix in ('.png', '.tif', '.bmp', '.webp'):
        for drawn in (figure, np.asarray(figure)):
            assert write_figure(tmp_path / f'a{suffix}', drawn) == []
            assert (np.asarray(Image.open(tmp_path / f'a{suffix}').convert('RGB')) == np.asarray(figure)).all()
    assert write_figure(tmp_path / 'a.png', figure, {'cICP': HDR}) == []
    assert chunks_of(tmp_path / 'a.png')[b'cICP'] == HDR
    assert 'cICP' in write_figure(tmp_path / 'a.jpg', figure, {'cICP': HDR})[0]
    with pytest.raises(UserError, match='no folder'):
        write_figure(tmp_path / 'none' / 'a.png', figure)
