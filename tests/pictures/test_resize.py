"""MATLAB's bicubic against exact fractions."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.pictures.resize import matlab_resize, matlab_taps

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
