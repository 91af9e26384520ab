"""PSNR and SSIM against independent implementations, on random images of any size."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import structural_similarity

from models.evaluation.metrics import border, luma, psnr, ssim
from utils import UserError

PROTOCOLS = ('benchmark', 'div2k')
scales = st.tuples(*[st.floats(1, 5) | st.sampled_from([1, 2, 3, 4])] * 2)


def images(seed, size, grey=False, noise=0.1):
    """An image and a noisy version of it, `(3, h, w)` float32 in [0, 1], smooth enough for a meaningful SSIM."""
    generator = torch.Generator().manual_seed(seed)
    hr = torch.rand(3, *size, generator=generator).cumsum(2)
    hr = hr / hr.amax()
    sr = (hr + noise * torch.randn(3, *size, generator=generator)).clamp(0, 1)
    return (sr.mean(0).expand(3, -1, -1), hr.mean(0).expand(3, -1, -1)) if grey else (sr, hr)


def luma_255(rgb):
    """Y in 16..235 of one image `(3, h, w)`, numpy."""
    r, g, b = rgb.double().numpy()
    return 16 + 255 / 256 * (65.738 * r + 129.057 * g + 25.064 * b)


def psnr_loop(sr, hr, protocol, scale):
    _, h, w = hr.shape
    extra = 6 if protocol == 'div2k' else 0
    rows, columns = math.ceil(scale[0]) + extra, math.ceil(scale[1]) + extra
    squares = []
    for i in range(rows, h - rows):
        for j in range(columns, w - columns):
            difference = [float(sr[c, i, j]) - float(hr[c, i, j]) for c in range(3)]
            if protocol == 'benchmark':
                difference = [sum(k * d for k, d in zip((65.738, 129.057, 25.064), difference)) / 256]
            squares += [d * d for d in difference]
    return 10 * math.log10(len(squares) / sum(squares))


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1000), *[st.integers(33, 42)] * 2, scales, st.sampled_from(PROTOCOLS), st.booleans())
def test_psnr_is_that_of_a_plain_loop(seed, h, w, scale, protocol, grey):
    sr, hr = images(seed, (h, w), grey)
    assert psnr(sr, hr, protocol, scale) == pytest.approx(psnr_loop(sr, hr, protocol, scale), abs=1e-9)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1000), *[st.integers(33, 60)] * 2, scales, st.sampled_from(PROTOCOLS), st.booleans())
def test_ssim_is_scikit_image_s(seed, h, w, scale, protocol, grey):
    sr, hr = images(seed, (h, w), grey)
    rows, columns = (math.ceil(s) + 6 * (protocol == 'div2k') for s in scale)
    x, y = (luma_255(image)[rows : h - rows, columns : w - columns] for image in (sr, hr))
    # the mean is over the valid region; `win_size`, 11, follows from sigma
    expected = structural_similarity(
        x, y, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert ssim(sr, hr, protocol, scale) == pytest.approx(expected, abs=1e-9)


def test_ssim_in_plain_loops():
    sr, hr = images(5, (18, 21))
    weights = np.array([[math.exp(-((i - 5) ** 2 + (j - 5) ** 2) / 4.5) for j in range(11)] for i in range(11)])
    weights /= weights.sum()
    x, y = (luma_255(image)[2:-2, 3:-3] for image in (sr, hr))
    values = []
    for i in range(x.shape[0] - 10):
        for j in range(x.shape[1] - 10):
            a, b = x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]
            mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
            var_a, var_b = (weights * (a - mean_a) ** 2).sum(), (weights * (b - mean_b) ** 2).sum()
            covariance = (weights * (a - mean_a) * (b - mean_b)).sum()
            values.append(
                (2 * mean_a * mean_b + 2.55**2)
                * (2 * covariance + 7.65**2)
                / ((mean_a**2 + mean_b**2 + 2.55**2) * (var_a + var_b + 7.65**2))
            )
    assert ssim(sr, hr, 'benchmark', (2, 2.5)) == pytest.approx(np.mean(values), abs=1e-10)


@pytest.mark.parametrize('protocol', PROTOCOLS)
def test_identical_images(protocol):
    hr = images(0, (40, 41))[1]
    assert psnr(hr, hr, protocol, (2, 2)) == math.inf
    assert ssim(hr, hr, protocol, (2, 2)) == pytest.approx(1, abs=1e-12)


def test_known_values():
    """Half a step of grey everywhere is 6.02 dB on RGB; on luma, whose range is narrower, 219/255 of that step."""
    black, grey = torch.zeros(3, 40, 40), torch.full((3, 40, 40), 0.5)
    assert psnr(grey, black, 'div2k', (2, 2)) == pytest.approx(-20 * math.log10(0.5))
    assert psnr(grey, black, 'benchmark', (2, 2)) == pytest.approx(-20 * math.log10(0.5 * 219.859 / 256))


@given(*[st.floats(0, 1)] * 3)
def test_luma_is_that_of_matlab(r, g, b):
    """Its rgb2ycbcr has the same weights with one more digit."""
    y = 16 + 255 * luma(torch.tensor([r, g, b], dtype=torch.float64).view(3, 1, 1)).item()
    assert y == pytest.approx(16 + 65.481 * r + 128.553 * g + 24.966 * b, abs=2e-3)


@pytest.mark.parametrize(
    'protocol, scale, shaved',
    [
        ('benchmark', (2, 2), (2, 2)),
        ('benchmark', (3.3, 3.3), (4, 4)),
        ('benchmark', (2, 3.5), (2, 4)),
        ('div2k', (6, 6), (12, 12)),
        ('div2k', (1.5, 4), (8, 10)),
    ],
)
def test_border_does_not_count_and_all_else_does(protocol, scale, shaved):
    assert border(protocol, scale) == shaved
    hr = images(0, (50, 51))[1]
    (rows, columns), (h, w) = shaved, hr.shape[1:]
    sr = hr + 1
    sr[:, rows : h - rows, columns : w - columns] = hr[:, rows : h - rows, columns : w - columns]
    assert psnr(sr, hr, protocol, scale) == math.inf
    for i, j in ((rows, columns), (h - rows - 1, columns), (rows, w - columns - 1)):
        changed = hr.clone()
        changed[:, i, j] += 0.1
        assert psnr(changed, hr, protocol, scale) < math.inf


def test_arguments_stay_as_they_are():
    sr, hr = images(1, (30, 30))
    before = sr.clone(), hr.clone()
    psnr(sr, hr, 'benchmark', (2, 2)), ssim(sr, hr, 'benchmark', (2, 2))
    assert torch.equal(sr, before[0]) and torch.equal(hr, before[1])


def test_what_cannot_be_measured():
    image = torch.rand(3, 25, 30)
    for metric in (psnr, ssim):
        assert metric(image, 1 - image, 'div2k', (1, 1)) < 30  # 11 x 16 pixels are left
        with pytest.raises(UserError, match='25 x 30 pixels is too small .* 8 rows and 7 columns .* 11 x 11'):
            metric(image, image, 'div2k', (2, 1))
        with pytest.raises(UserError, match='25 x 30 pixels is too small'):
            metric(image, image, 'benchmark', (2, 40))
    for protocol in ('benchmrk', None, ['div2k']):
        with pytest.raises(UserError, match='unknown protocol .*known: benchmark, div2k'):
            psnr(image, image, protocol, (2, 2))
