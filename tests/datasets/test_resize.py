"""How LR images are made: MATLAB's bicubic against exact fractions and published images, the protocol's sizes."""

import math
from fractions import Fraction

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import load_file

from datasets.image_folder import read_rgb
from datasets.resize import degrade, matlab_resize, matlab_taps, parse_scale, pil_resize, scale_pair, sizes
from utils import UserError

SHARED = ROOT.parent / 'shared'
SCALES = st.sampled_from(
    [
        Fraction(1, 2),
        Fraction(1, 3),
        Fraction(1, 4),
        Fraction(2, 5),
        Fraction(1),
        Fraction(3, 2),
        Fraction(2),
        Fraction(3),
        Fraction(4),
    ]
)  # output / input


def random_image(seed, *size):
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8)


def kernel(x):
    """The cubic of Keys (1981), a = -1/2, at a fraction."""
    x = abs(x)
    if x <= 1:
        return Fraction(3, 2) * x**3 - Fraction(5, 2) * x**2 + 1
    return Fraction(-1, 2) * x**3 + Fraction(5, 2) * x**2 - 4 * x + 2 if x <= 2 else Fraction(0)


def resized_line(line, n_out, scale):
    """A line of integers resized by MATLAB's rule, exactly: a list of fractions."""
    widened = max(1 / scale, 1)
    result = []
    for k in range(n_out):
        centre = (k + Fraction(1, 2)) / scale - Fraction(1, 2)
        total = weights = Fraction(0)
        for tap in range(math.floor(centre - 2 * widened), math.ceil(centre + 2 * widened) + 1):
            weight = kernel((tap - centre) / widened)
            weights += weight
            total += weight * int(line[min(max(tap, 0), len(line) - 1)])
        result.append(total / weights)
    return result


def exact_in_binary(scale):
    """Whether the weights at a scale are binary fractions."""
    return all(n & (n - 1) == 0 for n in (scale.numerator, scale.denominator))


@settings(max_examples=80)
@given(seed=st.integers(0, 2**32), n_in=st.integers(1, 24), scale=SCALES, columns=st.booleans())
def test_one_axis_is_the_exact_sum_rounded_half_up(seed, n_in, scale, columns):
    """If the weights are not binary fractions, a sum of exactly one half may be rounded either way."""
    n_out = max(1, math.floor(n_in * scale))
    line = random_image(seed, n_in)
    image, size, factors = line[:, None], (n_out, 1), (float(scale), 1)
    if columns:
        image, size, factors = line[None], (1, n_out), (1, float(scale))
    rounded = matlab_resize(image, size, factors)
    kept = matlab_resize(image, size, factors, to_uint8=False)
    assert rounded.shape == kept.shape == size and rounded.dtype == np.uint8 and kept.dtype == np.float64
    for value, real, exact in zip(rounded.ravel().tolist(), kept.ravel().tolist(), resized_line(line, n_out, scale)):
        assert abs(real - float(exact)) < 1e-10
        allowed = {math.floor(exact + Fraction(1, 2))}
        if (exact - Fraction(1, 2)).denominator == 1 and not exact_in_binary(scale):
            allowed.add(math.floor(exact))
        assert value in {min(max(number, 0), 255) for number in allowed}


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32),
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    channels=st.sampled_from([0, 1, 3]),
    scale=st.tuples(SCALES, SCALES),
    to_uint8=st.booleans(),
)
def test_an_image_is_its_rows_and_then_its_columns(seed, size, channels, scale, to_uint8):
    """Each channel separately, with rounding between the two passes."""
    image = random_image(seed, *size, *([channels] if channels else []))
    (h, w), scale = [max(1, math.floor(n * s)) for n, s in zip(size, scale)], tuple(map(float, scale))
    result = matlab_resize(image, (h, w), scale, to_uint8)
    rows = matlab_resize(image, (h, size[1]), (scale[0], 1), to_uint8)
    assert np.array_equal(result, matlab_resize(rows, (h, w), (1, scale[1]), to_uint8))
    for channel in range(channels):
        alone = matlab_resize(image[..., channel], (h, w), scale, to_uint8)
        assert np.allclose(result[..., channel].astype(float), alone, rtol=0, atol=1 if to_uint8 else 1e-10)


@given(n_in=st.integers(1, 30), n_out=st.integers(1, 30), scale=SCALES)
def test_weights_sum_to_one_and_taps_lie_in_the_image(n_in, n_out, scale):
    weight, index = matlab_taps(n_in, n_out, float(scale))
    assert weight.shape == index.shape and len(weight) == n_out
    assert np.allclose(weight.sum(axis=1), 1, rtol=0, atol=1e-14)
    assert index.min() >= 0 and index.max() < n_in


@pytest.mark.parametrize('value', [0, 1, 128, 255])
def test_a_flat_image_stays_flat(value):
    for scale in (1 / 2, 1 / 3, 1 / 4, 3.0):
        size = tuple(round(12 * scale) for _ in range(2))
        assert (matlab_resize(np.full((12, 12, 3), value, np.uint8), size, (scale, scale)) == value).all()


def test_values_are_clipped_after_each_pass():
    """An edge overshoots both ends of 0..255."""
    image = np.zeros((16, 16), np.uint8)
    image[:, 8:] = 255
    real = matlab_resize(image, (32, 32), (2, 2), to_uint8=False)
    assert real.min() < 0 and real.max() > 255
    assert np.array_equal(matlab_resize(image, (32, 32), (2, 2)), np.floor(real + 0.5).clip(0, 255))


@pytest.mark.skipif(not SHARED.is_dir(), reason='the published LR images are not beside the checkout')
@pytest.mark.parametrize('name', ['butterfly', 'woman'])
@pytest.mark.parametrize('scale', [2, 3, 4])
def test_published_lr_images_are_reproduced_to_the_last_bit(name, scale):
    published = read_rgb(SHARED / f'golden/matlab_bicubic/{name}_x{scale}.png')
    lr, hr = degrade(read_rgb(SHARED / f'data/benchmark/Set5/{name}.png'), scale)
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
    lr, _ = degrade(hr, scale)
    kept = len(lr) - 2
    rows = slice(kept) if corner.startswith('top') else slice(-kept, None)
    assert expected.shape == (kept, kept, 3)
    assert np.array_equal(lr[rows, :kept], expected)


# ---------------------------------------------------------------- the protocol


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
            degrade(hr, scale)
        return
    lr, cropped = degrade(hr, scale)
    assert lr.dtype == cropped.dtype == np.uint8
    assert lr.shape == (*expected, 3)
    assert np.array_equal(cropped, hr[: round(expected[0] * pair[0]), : round(expected[1] * pair[1])])
    assert cropped.shape == (*(round(n * s) for n, s in zip(expected, pair)), 3)  # HR is never short of its LR image
    assert (lr.shape[:2], cropped.shape[:2]) == sizes(size, pair)


@pytest.mark.parametrize('scale', [2, 3, 4, (2, 2), [3.0, 3.0]])
def test_whole_scales_to_four_are_matlabs(scale):
    hr = random_image(1, 38, 29, 3)
    s = int(scale_pair(scale)[0])
    lr, cropped = degrade(hr, scale)
    assert np.array_equal(cropped, hr[: 38 // s * s, : 29 // s * s])
    assert np.array_equal(lr, matlab_resize(cropped, (38 // s, 29 // s), (1 / s, 1 / s)))


@pytest.mark.parametrize('scale', [1, 2.5, 3.3, 5, 6, 8, (2, 3), (2, 2.5), (4, 1)])
def test_other_scales_are_pils_bicubic_of_the_cropped_image(scale):
    hr = random_image(2, 41, 34, 3)
    lr, cropped = degrade(hr, scale)
    assert np.array_equal(lr, pil_resize(cropped, lr.shape[:2]))
    whole = Image.fromarray(cropped).resize(lr.shape[1::-1], Image.Resampling.BICUBIC)
    assert np.array_equal(lr, np.asarray(whole))


def test_a_quotient_that_floating_point_makes_too_small_is_no_pixel_short():
    assert 33 / 1.1 < 30 and sizes((33, 66), (1.1, 1.1)) == ((30, 60), (33, 66))


def test_grey_images_stay_grey():
    for scale in (2, 3.3):
        lr, hr = degrade(random_image(3, 20, 21), scale)
        assert lr.ndim == hr.ndim == 2


@pytest.mark.parametrize('scale', [0, -2, math.nan, math.inf, 'x', None, [2], [2, 3, 4], [2, 0], [2, None], {}, []])
def test_scales_that_make_no_sense_are_refused(scale):
    with pytest.raises(UserError, match='a scale is a positive number, or two of them'):
        degrade(random_image(0, 8, 8), scale)


def test_scales_are_read_from_text():
    for text in ('3.3', '3.3x', ' 3.3 ', '3.3X', '3.3×'):
        assert parse_scale(text) == (3.3, 3.3)
    for text in ('2x3.5', '2,3.5', '2, 3.5', '2 x 3.5', '2X3.5', '2.0×3.50'):
        assert parse_scale(text) == (2, 3.5)
    for text in ('', 'x', ',', '2,', ',2', 'x2', 'two', '2x3x4', '2,3,4', '2x3x', '-1', '0x2', 'nan', '2,inf'):
        with pytest.raises(UserError, match='as 2x3.5'):
            parse_scale(text)
