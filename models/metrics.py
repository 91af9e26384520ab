"""PSNR and SSIM by the protocols that super-resolution papers use."""
import math

import torch
from torch.nn import functional as F

from utils import UserError, nearest

LUMA = (65.738, 129.057, 25.064)            # of 256, for RGB in [0, 1]; MATLAB's rgb2ycbcr
EXTRA_SHAVE = {'benchmark': 0, 'div2k': 6}  # pixels besides ceil(scale)


def shave(image, protocol, scale):
    """`(..., h, w)` without the border that the protocol leaves out: `ceil(scale)` pixels of each axis, and 6 more for 'div2k'.

    Raises UserError for an unknown protocol and an image that is too small.
    """
    if protocol not in EXTRA_SHAVE:
        raise UserError(f'unknown protocol {protocol!r}{nearest(protocol, EXTRA_SHAVE)}')
    top, left = (math.ceil(s) + EXTRA_SHAVE[protocol] for s in scale)
    h, w = image.shape[-2:]
    if h <= 2 * top or w <= 2 * left:
        raise UserError(f'an image of {h} x {w} pixels is too small for the protocol, which leaves out {top} rows and {left} columns at each border')
    return image[..., top:h - top, left:w - left]


def luma(rgb):
    """`(3, h, w)` in [0, 1] to the luma `(h, w)` in [0, 235 - 16] of 255, without the offset of 16."""
    return (rgb.double() * rgb.new_tensor(LUMA, dtype=torch.float64)[:, None, None]).sum(0) / 256 * 255


def psnr(sr, hr, protocol, scale):
    """PSNR in dB: of luma under 'benchmark', of RGB under 'div2k'; infinite for equal images.

    `sr`, `hr` `(3, h, w)` in [0, 1], already clamped (and rounded, where 8-bit figures are wanted); `scale` (sy, sx).
    """
    error = luma(sr.double() - hr.double()) / 255 if protocol == 'benchmark' else sr.double() - hr.double()
    mean = shave(error, protocol, scale).square().mean().item()
    return -10 * math.log10(mean) if mean else math.inf


def ssim(sr, hr, protocol, scale):
    """SSIM of luma, as MATLAB's `ssim_index`: 11x11 Gaussian of sigma 1.5, K1 0.01, K2 0.03, valid region; arguments as in `psnr`.

    Source: Wang et al., *Image Quality Assessment: From Error Visibility to Structural Similarity*, 2004.
    Raises UserError for an image with less than 11 pixels to a side when shaved.
    """
    x, y = (shave(luma(image) + 16, protocol, scale) for image in (sr, hr))
    if min(x.shape) < 11:
        raise UserError(f'SSIM takes 11 x 11 pixels at least, not {x.shape[0]} x {x.shape[1]}')
    gauss = torch.exp(-(torch.arange(11, dtype=torch.float64, device=x.device) - 5).square() / (2 * 1.5 ** 2))
    gauss = gauss / gauss.sum()
    maps = torch.stack([x, y, x * x, y * y, x * y])[:, None]
    maps = F.conv2d(F.conv2d(maps, gauss.reshape(1, 1, -1, 1)), gauss.reshape(1, 1, 1, -1))
    mean_x, mean_y, square_x, square_y, product = maps[:, 0]
    var_x, var_y, covariance = square_x - mean_x ** 2, square_y - mean_y ** 2, product - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2) / ((mean_x ** 2 + mean_y ** 2 + c1) * (var_x + var_y + c2))
    return similarity.mean().item()
