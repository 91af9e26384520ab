"""Evaluate a model on a benchmark set: `python test.py -config configs/test/test-set5-4.yaml -model modelzoo/EDSR_light_MSIT.pth`."""
import json
import math
import sys
from pathlib import Path

import torch

import datasets
import models
from datasets.image_io import Picture, write_image
from models.evaluation import evaluate
from models.metrics import EXTRA_SHAVE
from utils import Parser, UserError, atomic_path, choose_device, load_config, nearest, run_main

SCHEMA = {'dataset': {'name': None, 'args': None}, 'protocol': None}


def read_config(path):
    """The test config at `path`. Raises UserError for missing and unknown keys and an unknown protocol."""
    config = load_config(path, SCHEMA)
    for key in SCHEMA:
        if key not in config:
            raise UserError(f'{path}: the key {key!r} is missing')
    if config['protocol'] not in EXTRA_SHAVE:
        raise UserError(f'{path}: unknown protocol {config["protocol"]!r}{nearest(config["protocol"], EXTRA_SHAVE)}')
    return config


def caption(dataset, protocol, eight_bit):
    """What was measured, in one line, to stand over every number."""
    scale = getattr(dataset, 'scale', None)
    if scale is None:
        lr, border = 'LR as found', 'ceil(scale)'
    else:
        matlab = scale[0] == scale[1] and scale[0] in (2, 3, 4)
        times = f'{scale[0]:g}' if scale[0] == scale[1] else f'{scale[0]:g} (height) and x{scale[1]:g} (width)'
        lr = f'x{times}, LR by {"MATLAB" if matlab else "PIL antialiased"} bicubic'
        border = ' and '.join(str(math.ceil(s) + EXTRA_SHAVE[protocol]) for s in dict.fromkeys(scale))
    colour = 'luma (Y)' if protocol == 'benchmark' else 'RGB'
    return (f'{lr}; PSNR on {colour}, SSIM on luma, {border} pixels shaved, '
            f'{"output rounded to 8 bits" if eight_bit else "clamped float output"}; protocol {protocol}')


def table(results):
    """The results as text: one line an image, and the mean of the images' values."""
    width = max([len(image['name']) for image in results['images']] + [len('average')])
    lines = [f'{"image":{width}}  PSNR (dB)    SSIM  seconds']
    for image in [*results['images'], {'name': 'average', **results}]:
        lines.append(f'{image["name"]:{width}}  {image["psnr"]:9.3f}  {image["ssim"]:.4f}  {image["seconds"]:7.3f}')
    infinite = sum(math.isinf(image['psnr']) for image in results['images'])
    if infinite:
        lines.append(f'{infinite} of {len(results["images"])} images equal the original (PSNR infinite), and so the average is')
    return '\n'.join(lines)


def parse():
    parser = Parser('Evaluate a model on a benchmark set.')
    parser.add_argument('-config', required=True, help='YAML config, see configs/test')
    parser.add_argument('-model', required=True, help='weight file')
    parser.add_argument('-name', help='name of the evaluation, a folder in save/; the weight file\'s name if left out')
    parser.add_argument('-save-images', action='store_true', help='keep the output images')
    parser.add_argument('-eight-bit', action='store_true', help='round the output to 8 bits before it is compared')
    parser.add_argument('-device', help='cpu, cuda, cuda:1, mps; chosen by itself if left out')
    parser.add_argument('-debug', action='store_true', help='show the traceback of an error')
    return parser.parse_args()


def main(args):
    config = read_config(args.config)
    device = choose_device(args.device)
    model = models.load(args.model).to(device)
    dataset = datasets.make(config['dataset'])
    folder, stem = Path('save') / (args.name or Path(args.model).stem), Path(args.config).stem
    try:
        (folder / stem if args.save_images else folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f'{folder}: cannot make this folder ({error.strerror})') from error
    keep = (lambda name, image: write_image(folder / stem / f'{name}.png', Picture(image))) if args.save_images else None
    results = evaluate(model, dataset, config['protocol'], device, eight_bit=args.eight_bit, each=keep, progress=sys.stderr.isatty())

    title = caption(dataset, config['protocol'], args.eight_bit)
    text = f'{args.model} on {stem}\n{title}\n{table(results)}'
    print(text)
    summary = {'model': str(args.model), 'config': str(args.config), 'protocol': title, 'device': str(device), 'torch': torch.__version__, **results}
    for path, content in ((folder / f'{stem}.txt', text + '\n'), (folder / f'{stem}.json', json.dumps(summary, indent=1) + '\n')):
        with atomic_path(path) as temporary:
            temporary.write_text(content, encoding='utf-8')
    print(f'written: {folder / stem}.txt and .json' + (f', images in {folder / stem}' if args.save_images else ''))


if __name__ == '__main__':
    arguments = parse()
    run_main(lambda: main(arguments), arguments.debug)
