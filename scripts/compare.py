"""Draw what models make of an image beside each other, with their errors and PSNR.

    python scripts/compare.py -image data/Set14/zebra.png -scale 4 -models bicubic weights.pth -output zebra.png

The LR image is made from the image, and PSNR taken on luma, as in `test.py`.
"""

import signal
import sys
from pathlib import Path

if __name__ == '__main__' and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C just ends the seconds that the imports take

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import models  # noqa: E402
from datasets.image_folder import read_rgb  # noqa: E402
from datasets.pictures.figures import LARGEST_ERROR, comparison  # noqa: E402
from datasets.pictures.image_io import check_output, write_figure  # noqa: E402
from datasets.pictures.sizes import parse_scale  # noqa: E402
from datasets.wrappers import evaluation_item  # noqa: E402
from models.device import choose_device  # noqa: E402
from models.evaluation.loop import evaluate_image  # noqa: E402
from utils import Parser, UserError, labelled, part, run_main  # noqa: E402


def parse():
    parser = Parser('Draw what models make of an image beside each other, with their errors and PSNR.')
    parser.add_argument('-image', required=True, type=Path, metavar='FILE', help='the HR image')
    parser.add_argument('-scale', required=True, metavar='S', help='4, 3.3, or 2x3.5 for height x width')
    parser.add_argument('-models', required=True, nargs='+', metavar='MODEL', help='weight files, or bicubic')
    parser.add_argument('-output', required=True, type=Path, metavar='FILE', help='the figure')
    parser.add_argument(
        '-crop',
        type=part,
        metavar='TOP,LEFT,HEIGHT,WIDTH',
        help='the part shown enlarged, in LR pixels; where most detail is if left out',
    )
    parser.add_argument('-ensemble', action='store_true', help='average over the 8 flips and transpositions')
    parser.add_argument('-device', help='cpu, cuda, cuda:1, mps; chosen by itself if left out')
    parser.add_argument('-debug', action='store_true', help='show the traceback of an error')
    return parser.parse_args()


def main(args):
    check_output(args.output)
    device = choose_device(args.device)
    contenders = [(label, models.load(where).to(device)) for label, where in labelled(args.models)]
    item = evaluation_item(args.image.stem, read_rgb(args.image), parse_scale(args.scale))
    lr_size = item['lr'].shape[1:]
    if args.crop and any(first + extent > n for first, extent, n in zip(args.crop[:2], args.crop[2:], lr_size)):
        raise UserError(
            f'the part {",".join(map(str, args.crop))} is not inside the LR image of {lr_size[0]} x {lr_size[1]}'
        )
    panels = []
    for label, model in contenders:
        scores, sr = evaluate_image(model, item, 'benchmark', device, ensemble=args.ensemble)
        panels.append((f'{label}  {scores["psnr"]:.2f} dB', sr))
    write_figure(args.output, comparison(item['lr'], panels, args.crop, item['hr']))
    print('\n'.join(label for label, _ in panels))
    print(f'written: {args.output}; errors from black, none, to white, {LARGEST_ERROR:.0%} of the range and more')


if __name__ == '__main__':
    arguments = parse()
    run_main(lambda: main(arguments), arguments.debug)
