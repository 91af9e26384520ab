"""PSNR and SSIM by the protocols that super-resolution papers use."""

import math

import torch
from torch.nn import functional as F

from utils import UserError, suggestion

LUMA = (65.738, 129.057, 25.064)  # weights of RGB in [0, 1], times 256; as MATLAB's rgb2ycbcr
EXTRA_SHAVE = {'benchmark': 0, 'div2k': 6}  # pixels more than ceil(scale)
WINDOW = 11  # side of SSIM's window, in pixels


def border(protocol: str, scale: tuple[float, float]) -> tuple[int, int]:
    """How many pixels the protocol leaves out at each border, (rows, columns), at `scale` (sy, sx).

    Raises UserError for an unknown protocol.
    """
    if protocol not in list(EXTRA_SHAVE):
        raise UserError(f'unknown protocol {protocol!r}{suggestion(protocol, EXTRA_SHAVE)}')
    rows, columns = (math.ceil(s) + EXTRA_SHAVE[protocol] for s in scale)
    return rows, columns


def check_large_enough(size: tuple[int, int], protocol: str, scale: tuple[float, float]) -> None:
    """Raise UserError if an image of `size` (h, w) without its border is smaller than SSIM's window."""
    rows, columns = border(protocol, scale)
    if min(size[0] - 2 * rows, size[1] - 2 * columns) < WINDOW:
        raise UserError(
            f'an image of {size[0]} x {size[1]} pixels is too small for the protocol {protocol!r}: without '
            f'{rows} rows and {columns} columns at each border, less than {WINDOW} x {WINDOW} are left'
        )


def shave(image: torch.Tensor, protocol: str, scale: tuple[float, float]) -> torch.Tensor:
    """`(..., h, w)` without the protocol's border. Raises UserError as `check_large_enough` does."""
    (rows, columns), (h, w) = border(protocol, scale), image.shape[-2:]
    check_large_enough((h, w), protocol, scale)
    return image[..., rows : h - rows, columns : w - columns]


def luma(rgb: torch.Tensor) -> torch.Tensor:
    """RGB `(3, h, w)` in [0, 1] to luma `(h, w)` in [0, 219 / 255], without the offset of 16 / 255; float64."""
    return torch.einsum('chw,c->hw', rgb.double(), rgb.new_tensor(LUMA, dtype=torch.float64)) / 256


def psnr(sr: torch.Tensor, hr: torch.Tensor, protocol: str, scale: tuple[float, float]) -> float:
    """PSNR in dB: of luma under 'benchmark', of RGB under 'div2k'; infinite for equal images.

    `sr`, `hr` `(3, h, w)` in [0, 1], already clamped (and rounded, where 8-bit figures are wanted); `scale` (sy, sx).
    Raises UserError as `check_large_enough` does.
    """
    error = sr.double() - hr.double()
    error = shave(luma(error) if protocol == 'benchmark' else error, protocol, scale)
    mean = error.square().mean().item()
    return -10 * math.log10(mean) if mean else math.inf


def ssim(sr: torch.Tensor, hr: torch.Tensor, protocol: str, scale: tuple[float, float]) -> float:
    """SSIM of luma in 0..255, as MATLAB's `ssim_index`: 11x11 Gaussian of sigma 1.5, K1 0.01, K2 0.03, valid region.

    Arguments as in `psnr`. Source: Wang et al., Image Quality Assessment: From Error Visibility to Structural
    Similarity, 2004. Raises UserError as `check_large_enough` does.
    """
    x, y = (shave(16 + 255 * luma(image), protocol, scale) for image in (sr, hr))
    offset = torch.arange(WINDOW, dtype=torch.float64, device=x.device) - WINDOW // 2
    gauss = torch.exp(-(offset / 1.5).square() / 2)
    gauss = gauss / gauss.sum()
    maps = torch.stack([x, y, x * x, y * y, x * y])[:, None]  # (5, 1, h, w)
    maps = F.conv2d(F.conv2d(maps, gauss.reshape(1, 1, -1, 1)), gauss.reshape(1, 1, 1, -1))
    mean_x, mean_y, square_x, square_y, product = maps[:, 0]  # each (h - 10, w - 10)
    var_x, var_y, covariance = square_x - mean_x**2, square_y - mean_y**2, product - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    contrast_structure = (2 * covariance + c2) / (var_x + var_y + c2)
    return (luminance * contrast_structure).mean().item()
