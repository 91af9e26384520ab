"""Figures: results of several methods side by side."""

from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw, ImageFont
from torch.nn import functional as F

from datasets.pictures.resize import matlab_resize

PANEL = 400  # longest side of a panel, in pixels
CROP = 28  # longest side of the part shown enlarged, in LR pixels, where it is not given
LARGEST_ERROR = 0.2  # of 1: what an error map shows brightest
GAP, TEXT = 12, 18  # space around the panels and height of the labels, in pixels
Part = tuple[int, int, int, int]  # of the LR image: (top, left, height, width) in its pixels
Box = tuple[float, float, float, float]  # a part of any image: its edges (left, top, right, bottom) in [0, 1]


def comparison(
    lr: torch.Tensor,
    panels: Sequence[tuple[str, torch.Tensor]],
    crop: Part | None = None,
    truth: torch.Tensor | None = None,
) -> Image.Image:
    """A column for the LR input and one for each of `panels`: label, whole image, enlarged part.

    `lr (3, H, W)` and the images `(3, h, w)` of `panels`, each with its label, are RGB, are clamped to [0, 1] and may
    differ in size. `crop` is the part that is enlarged; by default it is where `lr` has most detail. `truth (3, h, w)`
    needs panels of its own size; it is shown in the last column, and each panel's errors in the part are drawn below
    the part.
    """
    top, left, height, width = crop or most_detailed(lr)
    rows, columns = lr.shape[1:]
    box = (left / columns, top / rows, (left + width) / columns, (top + height) / rows)
    parts = [column('input', lr, box), *(column(label, image, box, truth) for label, image in panels)]
    if truth is not None:
        parts.append(column('original', truth, box))
    size = (sum(part.width + GAP for part in parts) + GAP, max(part.height for part in parts) + 2 * GAP)
    figure = Image.new('RGB', size, 'white')
    x = GAP
    for part in parts:
        figure.paste(part, (x, GAP))
        x += part.width + GAP
    return figure


def strip(lr: torch.Tensor, output: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
    """The most detailed part of an image four times side by side, `(3, h, 4 w)` in [0, 1]: of the LR image
    `lr (3, H, W)` with its pixels as squares, of its bicubic enlargement, of the `output (3, h, w)` of a model, and of
    the original `hr (3, h, w)`."""
    top, left, height, width = most_detailed(lr)
    scale = [n / n_lr for n, n_lr in zip(hr.shape[1:], lr.shape[1:])]
    rows, columns = (slice(round(at * s), round((at + n) * s)) for at, n, s in zip((top, left), (height, width), scale))
    part = lr[:, top : top + height, left : left + width]
    size = (rows.stop - rows.start, columns.stop - columns.start)
    squares = F.interpolate(part[None], size, mode='nearest-exact')[0]
    bicubic = torch.from_numpy(matlab_resize(part.permute(1, 2, 0).numpy(), size, scale, to_uint8=False))
    parts = [squares, bicubic.permute(2, 0, 1).float(), output[:, rows, columns], hr[:, rows, columns]]
    return torch.cat(parts, dim=2).clamp(0, 1)


def column(label: str, image: torch.Tensor, box: Box, truth: torch.Tensor | None = None) -> Image.Image:
    """From top to bottom: the label and the size of `image (3, h, w)`, the whole image with the part `box` marked, that
    part enlarged, and with `truth (3, h, w)` its errors."""
    from torchvision.transforms.functional import to_pil_image  # here, as that takes two seconds

    text, font = f'{label}  {image.shape[1]} x {image.shape[2]}', ImageFont.load_default(TEXT)
    errors = None if truth is None else to_pil_image(error_map(image, truth))
    drawing = to_pil_image(image.detach().clamp(0, 1).cpu())
    whole = enlarged(drawing, (0, 0, 1, 1))
    shown = [whole, enlarged(drawing, box)] + ([] if errors is None else [enlarged(errors, box)])
    left, top, right, bottom = (round(edge * side) for edge, side in zip(box, whole.size * 2))
    corners = (left, top, max(left, right - 1), max(top, bottom - 1))
    ImageDraw.Draw(whole).rectangle(corners, outline='red', width=2)

    width = max(round(font.getlength(text)) + 1, *(part.width for part in shown))
    drawn = Image.new('RGB', (width, TEXT + sum(GAP + part.height for part in shown)), 'white')
    ImageDraw.Draw(drawn).text((0, 0), text, 'black', font)
    y = TEXT
    for part in shown:
        drawn.paste(part, (0, y + GAP))
        y += GAP + part.height
    return drawn


def error_map(image: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """The mean absolute error of the channels of `image (3, h, w)` as a colour, `(3, h, w)` in [0, 1]: black for no
    error, then red and yellow, and white for `LARGEST_ERROR` and more."""
    error = (image.detach().clamp(0, 1) - truth).abs().mean(0).cpu() / LARGEST_ERROR
    return torch.stack([3 * error, 3 * error - 1, 3 * error - 2]).clamp(0, 1)


def enlarged(image: Image.Image, box: Box) -> Image.Image:
    """The part `box` of an image, resized so that its longer side has `PANEL` pixels; enlarged pixels stay squares."""
    width, height = image.size
    part = left, top, right, bottom = box[0] * width, box[1] * height, box[2] * width, box[3] * height
    factor = PANEL / max(right - left, bottom - top)
    size = max(1, round((right - left) * factor)), max(1, round((bottom - top) * factor))
    return image.resize(size, Image.Resampling.NEAREST if factor > 1 else Image.Resampling.LANCZOS, part)


def most_detailed(lr: torch.Tensor) -> Part:
    """The part of `lr (3, H, W)` in which neighbouring pixels differ most. It has the image's proportions and at most
    `CROP` pixels a side."""
    rows, columns = lr.shape[1:]
    height, width = (max(1, round(n * min(1, CROP / max(rows, columns)))) for n in (rows, columns))
    grey = lr.mean(0)
    detail = torch.zeros_like(grey)
    detail[1:] += grey.diff(dim=0).abs()
    detail[:, 1:] += grey.diff(dim=1).abs()
    sums = F.avg_pool2d(F.avg_pool2d(detail[None], (height, 1), 1), (1, width), 1)[0]
    top, left = divmod(int(sums.argmax()), sums.shape[1])
    return top, left, height, width
