"""The evaluation loop that `test.py` and the validation of `train.py` share."""
import time

import torch
from tqdm import tqdm

from models.metrics import psnr, ssim


def synchronize(device):
    """Wait until the device has done what it was given, so that a clock reading means something."""
    device = torch.device(device)
    if device.type in ('cuda', 'mps'):
        getattr(torch, device.type).synchronize()


def evaluate(model, dataset, protocol, device='cpu', progress=True, eight_bit=False, each=None):
    """Render every LR image of `dataset` to the size of its HR image and compare.

    `dataset` gives items as `datasets.wrappers.Evaluation` does; `protocol` is 'benchmark' or 'div2k' (`models/metrics.py`);
    `eight_bit` rounds the output to 8 bits first; `each(name, image)` receives every output, `(3, h, w)` in [0, 1].

    Returns `{'images': [{'name', 'psnr', 'ssim', 'seconds'}], 'psnr', 'ssim', 'seconds'}`, the latter means of the images' values.
    """
    images = []
    for i in tqdm(range(len(dataset)), unit='image', disable=not progress):
        item = dataset[i]
        lr = item['lr'][None].to(device)
        synchronize(device)
        began = time.perf_counter()
        sr = model.render(lr, item['hr'].shape[-2:])[0]
        synchronize(device)
        seconds = time.perf_counter() - began
        sr = sr.float().clamp(0, 1).cpu()
        if eight_bit:
            sr = (sr * 255).round() / 255
        images.append({'name': item['name'], 'psnr': psnr(sr, item['hr'], protocol, item['scale']),
                       'ssim': ssim(sr, item['hr'], protocol, item['scale']), 'seconds': seconds})
        if each:
            each(item['name'], sr)
    return {'images': images, **{key: sum(image[key] for image in images) / len(images) for key in ('psnr', 'ssim', 'seconds')}}
