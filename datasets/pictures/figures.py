"""Pictures for people: results of several methods beside each other."""

from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch.nn import functional as F
from torchvision.transforms.functional import to_pil_image

from datasets.pictures.resize import matlab_resize

PANEL = 400  # longest side of a panel, in pixels
CROP = 28  # longest side of the part shown enlarged, in LR pixels, where it is not given
LARGEST_ERROR = 0.2  # of 1: what an error map shows brightest
GAP, TEXT = 12, 18  # space around the panels and height of the labels, in pixels


def comparison(lr: Any, panels: Any, crop: Any = None, truth: Any = None) -> Any:
    """A PIL image of columns, the LR input and then the `panels`: label, whole image, enlarged part.

    `lr (3, H, W)` and the images of `panels`, a list of `(label, image (3, h, w))`, are RGB, clamped to [0, 1], and may
    differ in size. `crop`: the part, `(top, left, height, width)` in LR pixels; None: where `lr` has most detail.
    With `truth (3, h, w)`, of the size of all panels, it is the last column, and each panel has its part's errors
    below.
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
    """The most detailed part of an image side by side, `(3, h, 4 w)` in [0, 1]: the LR image `lr (3, H, W)` with its
    pixels as they are, its bicubic enlargement, the `output (3, h, w)` of a model, and the original `hr (3, h, w)`."""
    top, left, height, width = most_detailed(lr)
    scale = [n / n_lr for n, n_lr in zip(hr.shape[1:], lr.shape[1:])]
    rows, columns = (slice(round(at * s), round((at + n) * s)) for at, n, s in zip((top, left), (height, width), scale))
    part = lr[:, top : top + height, left : left + width]
    size = (rows.stop - rows.start, columns.stop - columns.start)
    squares = F.interpolate(part[None], size, mode='nearest-exact')[0]
    bicubic = torch.from_numpy(matlab_resize(part.permute(1, 2, 0).numpy(), size, scale, to_uint8=False))
    parts = [squares, bicubic.permute(2, 0, 1).float(), output[:, rows, columns], hr[:, rows, columns]]
    return torch.cat(parts, dim=2).clamp(0, 1)


def column(label: str, image: Any, box: Any, truth: Any = None) -> Any:
    """A PIL image: the label and the size of `image (3, h, w)`, the whole image with the part marked, the part, and the
    part of its errors against `truth (3, h, w)`, if there is one.

    `box`: the edges of the part, (left, top, right, bottom), as fractions of the image's.
    """
    text, font = f'{label}  {image.shape[1]} x {image.shape[2]}', ImageFont.load_default(TEXT)
    errors = None if truth is None else to_pil_image(error_map(image, truth))
    image = to_pil_image(image.detach().clamp(0, 1).cpu())
    whole = enlarged(image, (0, 0, 1, 1))
    shown = [whole, enlarged(image, box)] + ([] if errors is None else [enlarged(errors, box)])
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


def error_map(image: Any, truth: Any) -> Any:
    """The mean absolute error of the channels as a colour, `(3, h, w)` in [0, 1]: from black, none, through red and
    yellow to white, `LARGEST_ERROR` and more."""
    error = (image.detach().clamp(0, 1) - truth).abs().mean(0).cpu() / LARGEST_ERROR
    return torch.stack([3 * error, 3 * error - 1, 3 * error - 2]).clamp(0, 1)


def enlarged(image: Any, box: Any) -> Any:
    """The part `box` (fractions, as above) of a PIL image, its longer side brought to `PANEL`; pixels stay squares."""
    left, top, right, bottom = box = [edge * side for edge, side in zip(box, image.size * 2)]
    factor = PANEL / max(right - left, bottom - top)
    size = max(1, round((right - left) * factor)), max(1, round((bottom - top) * factor))
    return image.resize(size, Image.Resampling.NEAREST if factor > 1 else Image.Resampling.LANCZOS, box)


def most_detailed(lr: Any) -> Any:
    """Where neighbours in `lr (3, H, W)` differ most: `(top, left, height, width)` of a part with the image's
    proportions and at most `CROP` pixels a side."""
    rows, columns = lr.shape[1:]
    height, width = (max(1, round(n * min(1, CROP / max(rows, columns)))) for n in (rows, columns))
    grey = lr.mean(0)
    detail = torch.zeros_like(grey)
    detail[1:] += grey.diff(dim=0).abs()
    detail[:, 1:] += grey.diff(dim=1).abs()
    sums = F.avg_pool2d(F.avg_pool2d(detail[None], (height, 1), 1), (1, width), 1)[0]
    top, left = divmod(int(sums.argmax()), sums.shape[1])
    return top, left, height, width
