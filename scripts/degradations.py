"""Draw 24 training patches degraded as a config says, each with a list of its degradations.

python scripts/degradations.py      # configs/train/train_photo_MSIT.yaml on the bundled photo
python scripts/degradations.py -config CONFIG -input photo.png -scale 2 -output degradations.png
"""

import signal
import sys
import textwrap
from pathlib import Path

if __name__ == '__main__' and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C just ends the seconds that the imports take

import numpy as np
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from datasets.degradations import Degradations  # noqa: E402
from datasets.image_folder import read_rgb  # noqa: E402
from models.training.config import read_training_config  # noqa: E402
from utils import Parser, UserError, atomic_path, check_folder, positive, run_main  # noqa: E402

CONFIG = ROOT / 'configs' / 'train' / 'train_photo_MSIT.yaml'
PHOTO = ROOT / 'tests' / 'photos' / 'chelsea.png'
ROWS, COLUMNS = 4, 6  # of patches
PATCH = 64  # side of a patch in LR pixels


def parse():
    parser = Parser('Draw training patches degraded as a config says, each with a list of its degradations.')
    parser.add_argument('-config', type=Path, default=CONFIG, metavar='FILE', help=f'{CONFIG.name} if left out')
    parser.add_argument(
        '-input', type=Path, default=PHOTO, metavar='FILE', help='an image; the bundled one if left out'
    )
    parser.add_argument(
        '-scale', type=positive, default=2, metavar='S', help='the factor by which it is reduced; 2 if left out'
    )
    parser.add_argument('-output', type=Path, default=Path('degradations.png'), metavar='FILE', help='the figure')
    parser.add_argument('-debug', action='store_true', help='show the traceback of an error')
    return parser.parse_args()


def main(args):
    stages = read_training_config(args.config)['stages'].values()
    spec = next((stage['degrade'] for stage in stages if stage.get('degrade')), None)
    if spec is None:
        raise UserError(f'{args.config}: no stage of this config degrades its images')
    if args.output.suffix.lower() != '.png' or args.output.is_dir():
        raise UserError(f'{args.output}: the figure must be a file that ends in .png')
    check_folder(args.output.absolute().parent)
    image, side = read_rgb(args.input), PATCH * args.scale
    if min(image.shape[:2]) < side:
        raise UserError(f'{args.input}: {side} x {side} pixels are needed, for a patch of {PATCH} at x{args.scale}')
    args.output.absolute().parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(args.output) as temporary:
        figure(image, side, Degradations(spec)).savefig(temporary, dpi=100)
    print(f'written: {args.output}')


def figure(image, side, degradations):
    """The figure: the middle `side x side` pixels of the image, reduced to `PATCH` and degraded in different ways."""
    top, left = ((extent - side) // 2 for extent in image.shape[:2])
    hr = np.ascontiguousarray(image[top : top + side, left : left + side])
    drawn = Figure(figsize=(3 * COLUMNS, 3.6 * ROWS), layout='constrained')
    for number, axes in enumerate(drawn.subplots(ROWS, COLUMNS).flat):
        degradation = degradations.draw(np.random.default_rng(number))
        axes.imshow(degradation.reduce(hr, (PATCH, PATCH)), interpolation='nearest')
        axes.set_title('\n'.join(textwrap.wrap(str(degradation), 46)), fontsize=7)
        axes.set_axis_off()
    return drawn


if __name__ == '__main__':
    arguments = parse()
    run_main(lambda: main(arguments), arguments.debug)
