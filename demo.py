"""Super-resolve an image to any size."""
import argparse
import math
import sys
import time
from pathlib import Path

import torch
from torchvision.transforms.functional import to_tensor

import models
from datasets.figures import comparison
from datasets.image_io import Picture, check_output, over_white, read_image, write_image
from datasets.resize import matlab_resize
from utils import Parser, UserError, choose_device, run_main

BUNDLED = Path(__file__).resolve().parent / 'modelzoo' / 'EDSR_light_MSIT.pth'
OUTPUT_LIMIT = 10 ** 9      # pixels; more is taken for a slip of the finger


def parse():
    parser = Parser('Super-resolve an image to any size.')
    parser.add_argument('-input', required=True, type=Path, metavar='FILE', help='the image')
    parser.add_argument('-output', required=True, type=Path, metavar='FILE', help='the result; format by extension')
    parser.add_argument('-model', default=BUNDLED, type=Path, metavar='FILE', help='weights; the bundled if left out')
    size = parser.add_mutually_exclusive_group()
    size.add_argument('-scale', default=(4.0, 4.0), type=factors, metavar='S',
                      help='how much larger: 3.7, or 2,3.5 for height,width; 4 if left out')
    size.add_argument('-resolution', type=height_width, metavar='H,W', help='the size of the result, in pixels')
    parser.add_argument('-compare', type=Path, metavar='FILE', help='also write a picture of the result beside bicubic')
    parser.add_argument('-device', help='cpu, cuda, cuda:1, mps; chosen by itself if left out')
    parser.add_argument('-debug', action='store_true', help='show the traceback of an error')
    return parser.parse_args()


def main(args):
    picture, notes = read_image(args.input)
    input_size = tuple(picture.rgb.shape[-2:])
    size = output_size(input_size, args.scale, args.resolution)
    check_output(args.output, size)
    if args.compare:
        check_output(args.compare)
    if len({path.resolve() for path in (args.input, args.output, args.compare) if path}) < 2 + bool(args.compare):
        raise UserError(f'{args.output}: input, output and comparison are different files')
    device = choose_device(args.device)
    model = models.load(args.model).to(device)

    start = time.perf_counter()
    result = super_resolve(model, picture, size)
    seconds = time.perf_counter() - start

    notes += write_image(args.output, result)
    if args.compare:
        write_image(args.compare, Picture(to_tensor(beside_bicubic(picture, result))))
    scales = [f'{n / m:.4g}' for n, m in zip(size, input_size)]
    print(f'output   {args.output}')
    if args.compare:
        print(f'compare  {args.compare}')
    print(f'input    {input_size[0]} x {input_size[1]} (height x width)')
    print(f'size     {size[0]} x {size[1]}')
    print(f'scale    {" x ".join(dict.fromkeys(scales))}')
    print(f'device   {device}')
    print(f'seconds  {seconds:.2f}')
    for note in notes:
        print(f'note: {note}', file=sys.stderr)


@torch.inference_mode()
def super_resolve(model, picture, size):
    """A `Picture` rendered at `size` (h, w); alpha by the same model, as a grey image.

    Raises UserError if the memory does not suffice or the model makes values that are not finite.
    """
    device = next(model.parameters()).device
    planes = [picture.rgb] if picture.alpha is None else [picture.rgb, picture.alpha.expand(3, -1, -1)]
    try:
        rgb, *alpha = [model.render(plane[None].to(device), size)[0].cpu() for plane in planes]
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or 'memory' in str(error):
            raise UserError(f'{size[0]} x {size[1]} pixels need more memory than there is on {device}') from error
        raise
    if not all(plane.isfinite().all() for plane in (rgb, *alpha)):
        raise UserError('the result has values that are not finite: the weights do not suit this image')
    return picture._replace(rgb=rgb, alpha=alpha[0].mean(0, keepdim=True) if alpha else None)


def beside_bicubic(picture, result):
    """The comparison, a PIL image, of the input, bicubic and the model's result, all seen before white."""
    lr, sr = (p.rgb if p.alpha is None else over_white(p.rgb, p.alpha.clamp(0, 1)) for p in (picture, result))
    size = sr.shape[-2:]
    scale = [n / m for n, m in zip(size, lr.shape[-2:])]
    bicubic = matlab_resize(lr.permute(1, 2, 0).numpy(), size, scale, to_uint8=False)
    return comparison(lr, [('bicubic', torch.from_numpy(bicubic).float().permute(2, 0, 1)), ('MSIT', sr)])


def output_size(input_size, scale, resolution):
    """The output's (h, w): `resolution`, or where it is None `input_size` times `scale` (y, x), rounded.

    Raises UserError for an empty size and one of more than `OUTPUT_LIMIT` pixels.
    """
    size = resolution or [n * s for n, s in zip(input_size, scale)]
    if math.prod(size) > OUTPUT_LIMIT:
        raise UserError(f'the output would have more pixels than the limit of {OUTPUT_LIMIT:,}')
    if min(map(round, size)) < 1:
        raise UserError(f'nothing would be left of {input_size[0]} x {input_size[1]} pixels')
    return tuple(map(round, size))


def factors(text):
    """'3.7' or '2,3.5' to (y, x)."""
    try:
        values = [float(value) for value in text.split(',')]
    except ValueError:
        values = []
    if len(values) not in (1, 2) or not all(0 < value < math.inf for value in values):
        raise argparse.ArgumentTypeError(f'{text!r} is not a positive number or two, as 3.7 or 2,3.5')
    return values[0], values[-1]


def height_width(text):
    """'720,1280' to (720, 1280)."""
    try:
        height, width = (int(value) for value in text.split(','))
    except ValueError:
        height = width = 0
    if min(height, width) < 1:
        raise argparse.ArgumentTypeError(f'{text!r} is not a height and a width in pixels, as 720,1280')
    return height, width


if __name__ == '__main__':
    arguments = parse()
    run_main(lambda: main(arguments), arguments.debug)
