"""The evaluation loop of `test.py`, `scripts/evaluate.py` and the validation of `train.py`."""

from collections.abc import Callable

import torch

import utils
from models.device import timed
from models.evaluation.metrics import psnr, ssim
from models.evaluation.sets import EvaluationSet
from models.rendering.implicit import ImplicitModel
from models.rendering.self_ensemble import render_ensemble
from utils import error_prefix


def evaluate(
    model: ImplicitModel,
    dataset: EvaluationSet,
    protocol: str,
    device: torch.device | str = 'cpu',
    progress: bool = True,
    eight_bit: bool = False,
    each: Callable[[str, torch.Tensor], None] | None = None,
    ensemble: bool = False,
) -> dict:
    """Render every LR image of `dataset` at the size of its HR image and compare.

    `progress`: whether to show a progress bar. `each(name, image)` is called with every output, `(3, h, w)` in [0, 1].
    The other arguments are as in `evaluate_image`.

    Returns `{'images': [{'name', 'psnr', 'ssim', 'seconds'}], 'psnr', 'ssim', 'seconds'}`; the last three are the means
    of the images' values. Raises UserError, naming the image, for one that is too small for the protocol.
    """
    images = []
    with utils.progress(len(dataset), shown=progress) as bar:
        for i in range(len(dataset)):
            image, sr = evaluate_image(model, dataset[i], protocol, device, eight_bit, ensemble)
            images.append(image)
            if each:
                each(image['name'], sr)
            bar.update()
    return {'images': images, **means(images)}


def evaluate_image(
    model: ImplicitModel,
    item: dict,
    protocol: str,
    device: torch.device | str = 'cpu',
    eight_bit: bool = False,
    ensemble: bool = False,
) -> tuple[dict, torch.Tensor]:
    """Render the LR image of an item at the size of its HR image and compare.

    `protocol` is 'benchmark' or 'div2k' (`models/evaluation/metrics.py`); `eight_bit` rounds the output to 8 bits
    before it is compared; `ensemble` renders by `models.rendering.self_ensemble`. Returns `{'name', 'psnr', 'ssim',
    'seconds'}`, where the seconds are the time of rendering alone, and the output, `(3, h, w)` in [0, 1]. Raises
    UserError as `evaluate` does.
    """
    lr, size = item['lr'][None].to(device), item['hr'].shape[-2:]
    with error_prefix(item['name']):
        sr, seconds = timed(lambda: render_ensemble(model, lr, size) if ensemble else model.render(lr, size), lr.device)
        sr = sr[0].float().clamp(0, 1).cpu()
        if eight_bit:
            sr = (sr * 255).round() / 255
        scores = compare(sr, item, protocol)
    return {'name': item['name'], **scores, 'seconds': seconds}, sr


def compare(sr: torch.Tensor, item: dict, protocol: str) -> dict[str, float]:
    """PSNR and SSIM of an output `(3, h, w)` in [0, 1] beside the HR image of an item. Raises UserError as `psnr`."""
    return {name: metric(sr, item['hr'], protocol, item['scale']) for name, metric in (('psnr', psnr), ('ssim', ssim))}


def means(images: list[dict]) -> dict[str, float]:
    """The images' mean of each number, as PSNR and seconds; a mean is infinite or NaN if one of its values is."""
    numbers = [key for key, value in images[0].items() if isinstance(value, (int, float))]
    return {key: sum(image[key] for image in images) / len(images) for key in numbers}
