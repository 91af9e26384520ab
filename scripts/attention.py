"""Draw how each head of MSSA attends to the LR image around one pixel of the output.

python scripts/attention.py -input photo.png -scale 4 -pixel 120,200 -model weights.pth -output attention.png
"""

import signal
import sys
from pathlib import Path

if __name__ == '__main__' and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C just ends the seconds that the imports take

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import models  # noqa: E402
from datasets.pictures.image_io import check_output, read_image, write_figure  # noqa: E402
from datasets.pictures.sizes import parse_scale  # noqa: E402
from models.device import choose_device  # noqa: E402
from models.rendering import grid  # noqa: E402
from utils import Parser, UserError, pixel, run_main  # noqa: E402

COLUMNS = 4  # heads beside each other
SURROUNDING = 4  # LR pixels shown around the window


def parse():
    parser = Parser('Draw how each head of MSSA attends to the LR image around one pixel of the output.')
    parser.add_argument('-input', required=True, type=Path, metavar='FILE', help='the LR image')
    parser.add_argument('-scale', required=True, metavar='S', help='of the output: 4, 3.3, or 2x3.5 for height x width')
    parser.add_argument('-pixel', required=True, type=pixel, metavar='Y,X', help='of the output')
    parser.add_argument('-model', required=True, type=Path, metavar='FILE', help='weights')
    parser.add_argument('-output', required=True, type=Path, metavar='FILE', help='the figure')
    parser.add_argument('-device', help='cpu, cuda, cuda:1, mps (default: chosen automatically)')
    parser.add_argument('-debug', action='store_true', help='show the traceback of an error')
    return parser.parse_args()


def main(args):
    check_output(args.output)
    lr = read_image(args.input)[0].rgb
    size = [round(n * s) for n, s in zip(lr.shape[1:], parse_scale(args.scale))]
    if not all(0 <= i < n for i, n in zip(args.pixel, size)):
        raise UserError(f'the pixel {args.pixel[0]},{args.pixel[1]} is not inside the output of {size[0]} x {size[1]}')
    device = choose_device(args.device)
    model = models.load(args.model).to(device)
    if not hasattr(model, 'attention'):
        raise UserError(f'{args.model}: a model of the kind {model.spec["name"]!r} has no attention to draw')
    weights = attention(model, lr.to(device), args.pixel, size).cpu()
    nearest, point = place(args.pixel, lr.shape[1:], size)
    write_figure(args.output, draw(lr, weights, nearest, point))
    print(
        f'{len(weights)} heads, window of {weights.shape[1]} x {weights.shape[2]} LR pixels around row {nearest[0]}, '
        f'column {nearest[1]}\nwritten: {args.output}'
    )


@torch.inference_mode()
def attention(model, lr, pixel, size):
    """Each head's attention weights in the window of an output pixel (y, x): `(heads, 2 r + 1, 2 r + 1)`."""
    index = torch.full((1, 1), pixel[0] * size[1] + pixel[1], device=lr.device)
    weights = model.attention(model.encode(lr[None]), grid.centres_of(index, *size))[0, 0]
    return weights.unflatten(-1, (2 * model.radius + 1, -1))


def place(pixel, lr_size, size):
    """The position of an output pixel (y, x) on the LR image: its nearest LR pixel, and its centre in LR pixels."""
    nearest = [int(grid.nearest_index(m, n)[i]) for i, m, n in zip(pixel, lr_size, size)]
    return nearest, [(i + 0.5) * m / n - 0.5 for i, m, n in zip(pixel, lr_size, size)]


def draw(lr, weights, nearest, point):
    """A figure `(h, w, 3)` uint8: the LR image with the window marked, then for each head the part around the window
    with the head's weights laid over it, all on the same colour scale. Like MSSA's, the window may reach beyond the
    image."""
    rows = -(-len(weights) // COLUMNS)
    figure = Figure(figsize=(3.2 * (COLUMNS + 1), 3 * rows), layout='constrained', dpi=120)
    grid_spec = figure.add_gridspec(rows, COLUMNS + 1)
    radius = weights.shape[-1] // 2
    (y, x), side = nearest, radius + 0.5
    whole = figure.add_subplot(grid_spec[:, 0], title='LR image')
    show(whole, lr, point)
    whole.add_patch(Rectangle((x - side, y - side), 2 * side, 2 * side, fill=False, color='red'))
    panels = []
    for head, window in enumerate(weights):
        panel = figure.add_subplot(grid_spec[head // COLUMNS, head % COLUMNS + 1], title=f'head {head + 1}')
        show(panel, lr, point)
        drawn = panel.imshow(
            window.numpy(),
            cmap='inferno',
            alpha=0.7,
            vmin=0,
            vmax=weights.max(),
            extent=(x - side, x + side, y + side, y - side),
        )
        panel.set(
            xlim=(x - side - SURROUNDING, x + side + SURROUNDING), ylim=(y + side + SURROUNDING, y - side - SURROUNDING)
        )
        panels.append(panel)
    figure.colorbar(drawn, ax=panels, label='weight')
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def show(axes, lr, point):
    """Draw the LR image, and on it the point (y, x), in LR pixels."""
    axes.imshow(lr.permute(1, 2, 0).numpy(), interpolation='nearest')
    axes.plot(*reversed(point), '+', color='cyan')
    axes.axis('off')


if __name__ == '__main__':
    arguments = parse()
    run_main(lambda: main(arguments), arguments.debug)
