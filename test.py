"""Evaluate a model on a benchmark set.

    python test.py -config configs/test/test-set5-4.yaml -model modelzoo/EDSR_light_MSIT.pth
"""
import json
import math
import os
import sys
from pathlib import Path

import torch

import datasets
import models
from datasets.image_io import Picture, write_image
from datasets.resize import by_matlab
from models.evaluation import evaluate
from models.metrics import border, check_size
from utils import Parser, UserError, about, atomic_path, choose_device, load_config, nearest, run_main

SCHEMA = {'dataset': {'name': None, 'args': None}, 'protocol': None}
WRAPPERS = ('sr-evaluation', 'sr-evaluation-paired')


def parse():
    parser = Parser('Evaluate a model on a benchmark set.')
    parser.add_argument('-config', required=True, type=Path, metavar='FILE', help='what on, see configs/test')
    parser.add_argument('-model', required=True, type=Path, metavar='FILE', help='weights')
    parser.add_argument('-name', help='folder in save/ for the results; the name of the weights if left out')
    parser.add_argument('-save-images', action='store_true', help='keep the output images')
    parser.add_argument('-eight-bit', action='store_true', help='round the outputs to 8 bits before they are compared')
    parser.add_argument('-device', help='cpu, cuda, cuda:1, mps; chosen by itself if left out')
    parser.add_argument('-debug', action='store_true', help='show the traceback of an error')
    return parser.parse_args()


def main(args):
    dataset, protocol = read_config(args.config)
    folder, stem = Path('save') / (args.name or args.model.stem), args.config.stem
    check_folder(folder / stem if args.save_images else folder)
    device = choose_device(args.device)
    model = models.load(args.model).to(device)

    def receive(name, image):
        if not image.isfinite().all():
            raise UserError(f'{name}: the model makes values that are not finite')
        if args.save_images:
            (folder / stem).mkdir(parents=True, exist_ok=True)
            write_image(folder / stem / f'{name}.png', Picture(image))
    results = evaluate(model, dataset, protocol, device, progress=sys.stderr.isatty(), eight_bit=args.eight_bit,
                       each=receive)

    title = caption(dataset, protocol, args.eight_bit)
    text = f'{args.model} on {stem}\n{title}\n{table(results)}'
    facts = {'model': str(args.model), 'config': str(args.config), 'protocol': title, 'device': str(device),
             'torch': torch.__version__}
    print(text)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / f'{stem}.txt', text)
    write_text(folder / f'{stem}.json', json.dumps(facts | finite(results), indent=1, allow_nan=False))
    print(f'written: {folder / stem}.txt and .json' + (f', images in {folder / stem}' if args.save_images else ''))


# ---------------------------------------------------------------- before

def read_config(path):
    """The dataset and the protocol of the test config at `path`.

    Raises UserError for what is missing, unknown or makes no sense, and for images that are unreadable or too small.
    """
    config = load_config(path, SCHEMA)
    for key in SCHEMA:
        if not config.get(key):
            raise UserError(f'{path}: the key {key!r} is missing')
    with about(path):
        border(config['protocol'], (1, 1))          # an unknown protocol is told before a missing folder
        name = config['dataset'].get('name')
        if name not in WRAPPERS:
            raise UserError(f'no dataset to evaluate on: {name!r}{nearest(name, WRAPPERS)}')
        dataset = datasets.make(config['dataset'])
        for i in range(len(dataset)):
            name, size, scale = dataset.measure(i)
            with about(name):
                check_size(size, config['protocol'], scale)
        return dataset, config['protocol']


def check_folder(folder):
    """Raise UserError, before any work, if `folder` cannot be made or written to."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise UserError(f'{folder}: {there.resolve()} is no folder that can be written to')


# ---------------------------------------------------------------- after

def caption(dataset, protocol, eight_bit):
    """How the numbers were taken, in one line."""
    scale = getattr(dataset, 'scale', None)
    if scale is None:
        lr, shaved = 'LR images as found', f'ceil(scale) + {border(protocol, (0, 0))[0]}'
    else:
        equal = scale[0] == scale[1]
        factor = f'x{scale[0]:g}' if equal else f'x{scale[0]:g} in height and x{scale[1]:g} in width'
        lr = f'{factor}, LR by {"MATLAB" if by_matlab(scale) else "PIL antialiased"} bicubic'
        rows, columns = border(protocol, scale)
        shaved = rows if rows == columns else f'{rows} rows and {columns} columns of'
    return (f'{lr}; PSNR on {"luma (Y)" if protocol == "benchmark" else "RGB"}, SSIM on luma, {shaved} pixels shaved, '
            f'{"output rounded to 8 bits" if eight_bit else "clamped float output"}; protocol {protocol}')


def table(results):
    """The results as text: one line an image, and the means of the images' values."""
    images = results['images']
    width = max(len(image['name']) for image in [*images, {'name': 'average'}])
    lines = [f'{"image":{width}}  PSNR (dB)    SSIM  seconds']
    for row in [*images, {'name': 'average', **results}]:
        lines.append(f'{row["name"]:{width}}  {row["psnr"]:9.3f}  {row["ssim"]:.4f}  {row["seconds"]:7.3f}')
    equal = sum(math.isinf(image['psnr']) for image in images)
    if equal:
        lines.append(f'PSNR is infinite for {equal} of {len(images)} images, equal to the original, and so on average')
    return '\n'.join(lines)


def finite(results):
    """`results` for JSON, which has no infinity: the string 'inf' in its place."""
    if isinstance(results, dict):
        return {key: finite(value) for key, value in results.items()}
    if isinstance(results, list):
        return [finite(value) for value in results]
    return 'inf' if results == math.inf else results


def write_text(path, text):
    try:
        with atomic_path(path) as temporary:
            temporary.write_text(text + '\n', encoding='utf-8')
    except OSError as error:
        raise UserError(f'{path}: cannot be written ({error.strerror})') from error


if __name__ == '__main__':
    arguments = parse()
    run_main(lambda: main(arguments), arguments.debug)
