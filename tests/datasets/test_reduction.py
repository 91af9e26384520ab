"""How LR images are made: MATLAB's bicubic against published images, the protocol's sizes."""

import math

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import load_file

from datasets.image_folder import read_rgb
from datasets.pictures.resize import matlab_resize, pil_resize
from datasets.pictures.sizes import scale_pair
from datasets.reduction import reduced, sizes
from utils import UserError

SHARED = ROOT.parent / 'shared'


def random_image(seed, *size):
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8)


@pytest.mark.skipif(not SHARED.is_dir(), reason='the published LR images are not beside the checkout')
@pytest.mark.parametrize('name', ['butterfly', 'woman'])
@pytest.mark.parametrize('scale', [2, 3, 4])
def test_published_lr_images_are_reproduced_to_the_last_bit(name, scale):
    published = read_rgb(SHARED / f'golden/matlab_bicubic/{name}_x{scale}.png')
    lr, hr = reduced(read_rgb(SHARED / f'data/benchmark/Set5/{name}.png'), scale)
    assert np.array_equal(lr, published)
    assert hr.shape == (lr.shape[0] * scale, lr.shape[1] * scale, 3)


@pytest.mark.parametrize('corner', ['top_left', 'bottom_left'])
@pytest.mark.parametrize('scale', [2, 3, 4])
def test_matlab_is_reproduced_to_the_last_bit(corner, scale):
    """Corners of two published LR images, made by MATLAB, and of their HR images (butterfly and woman of Set5).

    The two LR rows and columns next to the cut depend on HR pixels beyond it and are left out.
    """
    golden = load_file(ROOT / 'tests/golden/matlab_bicubic.safetensors')
    hr, expected = golden[f'{corner}_x{scale}_hr'], golden[f'{corner}_x{scale}_lr']
    lr, _ = reduced(hr, scale)
    kept = len(lr) - 2
    rows = slice(kept) if corner.startswith('top') else slice(-kept, None)
    assert expected.shape == (kept, kept, 3)
    assert np.array_equal(lr[rows, :kept], expected)


@settings(max_examples=60)
@given(
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    scale=st.one_of(st.sampled_from([2, 3, 4, 6, 8, 3.3, 12.5, 30, [2, 3.5], (1, 4), [0.5, 2]]), st.floats(0.5, 9)),
)
def test_sizes_and_cropping(size, scale):
    hr = random_image(0, *size, 3)
    pair = scale_pair(scale)
    assert pair == (tuple(scale) if isinstance(scale, (list, tuple)) else (scale, scale))
    expected = [math.floor(n / s + 1e-9) for n, s in zip(size, pair)]
    if min(expected) < 1:
        with pytest.raises(UserError, match=f'{size[0]} x {size[1]} pixels is too small for scale'):
            reduced(hr, scale)
        return
    lr, cropped = reduced(hr, scale)
    assert lr.dtype == cropped.dtype == np.uint8
    assert lr.shape == (*expected, 3)
    assert np.array_equal(cropped, hr[: round(expected[0] * pair[0]), : round(expected[1] * pair[1])])
    assert cropped.shape == (*(round(n * s) for n, s in zip(expected, pair)), 3)  # HR is never short of its LR image
    assert (lr.shape[:2], cropped.shape[:2]) == sizes(size, pair)


@pytest.mark.parametrize('scale', [2, 3, 4, (2, 2), [3.0, 3.0]])
def test_whole_scales_to_four_are_matlabs(scale):
    hr = random_image(1, 38, 29, 3)
    s = int(scale_pair(scale)[0])
    lr, cropped = reduced(hr, scale)
    assert np.array_equal(cropped, hr[: 38 // s * s, : 29 // s * s])
    assert np.array_equal(lr, matlab_resize(cropped, (38 // s, 29 // s), (1 / s, 1 / s)))


@pytest.mark.parametrize('scale', [1, 2.5, 3.3, 5, 6, 8, (2, 3), (2, 2.5), (4, 1)])
def test_other_scales_are_pils_bicubic_of_the_cropped_image(scale):
    hr = random_image(2, 41, 34, 3)
    lr, cropped = reduced(hr, scale)
    assert np.array_equal(lr, pil_resize(cropped, lr.shape[:2]))
    whole = Image.fromarray(cropped).resize(lr.shape[1::-1], Image.Resampling.BICUBIC)
    assert np.array_equal(lr, np.asarray(whole))


def test_a_quotient_that_floating_point_makes_too_small_is_no_pixel_short():
    assert 33 / 1.1 < 30 and sizes((33, 66), (1.1, 1.1)) == ((30, 60), (33, 66))


def test_grey_images_stay_grey():
    for scale in (2, 3.3):
        lr, hr = reduced(random_image(3, 20, 21), scale)
        assert lr.ndim == hr.ndim == 2


@pytest.mark.parametrize('scale', [0, -2, math.nan, math.inf, 'x', None, [2], [2, 3, 4], [2, 0], [2, None], {}, []])
def test_scales_that_make_no_sense_are_refused(scale):
    with pytest.raises(UserError, match='a scale is a positive number, or two of them'):
        reduced(random_image(0, 8, 8), scale)
