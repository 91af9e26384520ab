"""The evaluation loop that `test.py` and the validation of `train.py` share."""
import time

import torch
from tqdm import tqdm

from models.metrics import psnr, ssim
from utils import about


def evaluate(model, dataset, protocol, device='cpu', progress=True, eight_bit=False, each=None):
    """Render every LR image of `dataset` at the size of its HR image and compare.

    `dataset` gives items as `datasets.wrappers.Evaluation` does; `protocol` is 'benchmark' or 'div2k'
    (`models/metrics.py`); `progress` shows a bar; `eight_bit` rounds the outputs to 8 bits before they are compared;
    `each(name, image)` receives every output, `(3, h, w)` in [0, 1].

    Returns `{'images': [{'name', 'psnr', 'ssim', 'seconds'}], 'psnr', 'ssim', 'seconds'}`; the last three are the means
    of the images' values, infinite as soon as one is, NaN where an output is. `seconds` are the rendering's alone.
    Raises UserError, naming the image, for one that is too small for the protocol.
    """
    images = []
    for i in tqdm(range(len(dataset)), unit='image', disable=not progress):
        item = dataset[i]
        with about(item['name']):
            sr, seconds = timed_render(model, item['lr'][None].to(device), item['hr'].shape[-2:])
            sr = sr[0].float().clamp(0, 1).cpu()
            if eight_bit:
                sr = (sr * 255).round() / 255
            scores = {name: metric(sr, item['hr'], protocol, item['scale'])
                      for name, metric in (('psnr', psnr), ('ssim', ssim))}
        images.append({'name': item['name'], **scores, 'seconds': seconds})
        if each:
            each(item['name'], sr)
    means = {key: sum(image[key] for image in images) / len(images) for key in ('psnr', 'ssim', 'seconds')}
    return {'images': images, **means}


def timed_render(model, lr, size):
    """`model.render(lr, size)` and the seconds it took."""
    synchronize(lr.device)
    began = time.perf_counter()
    sr = model.render(lr, size)
    synchronize(lr.device)
    return sr, time.perf_counter() - began


def synchronize(device):
    """Wait until `device` has done what it was given, so that a clock reading means something."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
    elif device.type == 'mps':
        torch.mps.synchronize()
