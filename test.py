"""Evaluate a model on a benchmark set.

python test.py -config configs/test/test-set5-4.yaml -model modelzoo/EDSR_light_MSIT.pth
"""

import argparse
import math
import signal
from pathlib import Path

if __name__ == '__main__' and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C just ends the seconds that importing torch takes

import torch

import models
from datasets.pictures.image_io import Picture, write_image
from models.device import choose_device, described, keep_memory
from models.evaluation.loop import evaluate
from models.evaluation.sets import caption, make_set, read_test_config
from utils import Parser, UserError, check_folder, error_prefix, run_main, write_json, write_text


def parse() -> argparse.Namespace:
    parser = Parser('Evaluate a model on a benchmark set.')
    parser.add_argument('-config', required=True, type=Path, metavar='FILE', help='what on, see configs/test')
    parser.add_argument('-model', required=True, type=Path, metavar='FILE', help='weights')
    parser.add_argument('-name', help='folder in save/ for the results; the name of the weights if left out')
    parser.add_argument('-save-images', action='store_true', help='keep the output images')
    parser.add_argument('-eight-bit', action='store_true', help='round the outputs to 8 bits before they are compared')
    parser.add_argument('-ensemble', action='store_true', help='average over the 8 flips and transpositions')
    parser.add_argument('-device', help='cpu, cuda, cuda:1, mps; chosen by itself if left out')
    parser.add_argument('-debug', action='store_true', help='show the traceback of an error')
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    keep_memory()
    config = read_test_config(args.config)
    protocol = config['protocol']
    with error_prefix(args.config):
        dataset = make_set(config['dataset'], protocol)
    folder, stem = Path('save') / (args.name or args.model.stem), args.config.stem
    check_folder(folder / stem if args.save_images else folder)
    device = choose_device(args.device)
    model = models.load(args.model).to(device)

    def receive(name: str, image: torch.Tensor) -> None:
        if not image.isfinite().all():
            raise UserError(f'{name}: the model makes values that are not finite')
        if args.save_images:
            (folder / stem).mkdir(parents=True, exist_ok=True)
            write_image(folder / stem / f'{name}.png', Picture(image))

    results = evaluate(
        model,
        dataset,
        protocol,
        device,
        eight_bit=args.eight_bit,
        each=receive,
        ensemble=args.ensemble,
    )

    title = '; '.join(caption(dataset, protocol, args.eight_bit, args.ensemble))
    text = f'{args.model} on {stem}\n{title}\n{table(results)}'
    facts = {
        'model': str(args.model),
        'config': str(args.config),
        'protocol': title,
        'device': described(device),
        'torch': torch.__version__,
    }
    print(text)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / f'{stem}.txt', text)
    write_json(folder / f'{stem}.json', facts | results)
    print(f'written: {folder / stem}.txt and .json' + (f', images in {folder / stem}' if args.save_images else ''))


def table(results: dict) -> str:
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


if __name__ == '__main__':
    arguments = parse()
    run_main(lambda: main(arguments), arguments.debug)
