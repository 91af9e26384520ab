"""Draw a figure of what the weights for clean images and those for photos can do. Their input is a clean image, and the
same image saved as JPEG, with noise, blurred, and with more noise than either was trained for.

    python scripts/limits.py            # the bundled weights; writes scripts/pictures/limits.png
"""

import signal
import sys
from pathlib import Path

if __name__ == '__main__' and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C just ends the seconds that the imports take

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torchvision.transforms.functional import to_pil_image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import models  # noqa: E402
from datasets.degradations import Blur, Degradation, Noise, case  # noqa: E402
from datasets.image_folder import read_rgb  # noqa: E402
from datasets.pictures.image_io import Picture, write_image  # noqa: E402
from datasets.wrappers import evaluation_item, to_tensor  # noqa: E402
from models.device import choose_device  # noqa: E402
from models.evaluation.metrics import psnr  # noqa: E402
from models.weights.bundled import BUNDLED  # noqa: E402
from utils import Parser, run_main  # noqa: E402

PHOTO = ROOT / 'tests' / 'photos' / 'chelsea.png'
OUTPUT = ROOT / 'scripts' / 'pictures' / 'limits.png'
SCALE = 3
TOP, LEFT, HEIGHT, WIDTH = 24, 39, 33, 40  # the part that is shown, in LR pixels
PANEL, GAP, TEXT = (198, 240), 10, 14  # (height, width) of a panel, space between panels, height of labels, in pixels
INPUTS = {
    'reduced by bicubic': case('clean'),
    'then JPEG, quality 40': case('jpeg40'),
    'then noise, 8 of 255': case('noise8'),
    'blurred before, by 0.8 pixels': Degradation(blur=Blur('isotropic', 0.8)),
    'then noise, 25 of 255': Degradation(after=(Noise('gaussian', 25),)),
}


def parse():
    parser = Parser('Draw a figure of what weights can do and what they cannot.')
    parser.add_argument(
        '-models', default=list(BUNDLED), nargs='+', metavar='MODEL', help='weights; light and photo if left out'
    )
    parser.add_argument(
        '-output', default=OUTPUT, type=Path, metavar='FILE', help=f'the figure; {OUTPUT.relative_to(ROOT)} if left out'
    )
    parser.add_argument('-device', help='cpu, cuda, cuda:1, mps; chosen by itself if left out')
    parser.add_argument('-debug', action='store_true', help='show the traceback of an error')
    return parser.parse_args()


def main(args):
    device = choose_device(args.device)
    files = {'bicubic': 'bicubic', **{Path(name).stem: BUNDLED.get(name, name) for name in args.models}}
    methods = {name: models.load(file).to(device) for name, file in files.items()}
    hr, rows = read_rgb(PHOTO), []
    for label, degradation in INPUTS.items():
        item = evaluation_item(PHOTO.stem, hr, (SCALE, SCALE), degradation)
        lr, truth = item['lr'], item['hr']
        images, labels = [lr], [label]
        for name, model in methods.items():
            images.append(model.render(lr[None].to(device), truth.shape[-2:])[0].cpu().clamp(0, 1))
            labels.append(f'{name} {psnr(images[-1], truth, "benchmark", (SCALE, SCALE)):.2f} dB')
        print('  '.join(labels))
        rows.append(row([*labels, 'original'], [part(lr, 1), *(part(image, SCALE) for image in (*images[1:], truth))]))
    args.output.parent.mkdir(parents=True, exist_ok=True)
    write_image(args.output, Picture(to_tensor(np.concatenate(rows)) / 255))
    print(f'written: {args.output}')


def part(image, scale):
    """The part to be shown of `image (3, h, w)`, which is `scale` times larger than the LR image."""
    return image[:, TOP * scale : (TOP + HEIGHT) * scale, LEFT * scale : (LEFT + WIDTH) * scale]


def row(labels, images):
    """A PIL image of panels side by side, each an image `(3, h, w)` below its label; pixels are shown as squares."""
    drawn = Image.new('RGB', ((PANEL[1] + GAP) * len(images) + GAP, PANEL[0] + TEXT + 2 * GAP), 'white')
    for k, (label, image) in enumerate(zip(labels, images)):
        x = GAP + k * (PANEL[1] + GAP)
        ImageDraw.Draw(drawn).text((x, GAP // 2), label, 'black', ImageFont.load_default(TEXT))
        drawn.paste(to_pil_image(image).resize(PANEL[::-1], Image.Resampling.NEAREST), (x, TEXT + GAP))
    return drawn


if __name__ == '__main__':
    arguments = parse()
    run_main(lambda: main(arguments), arguments.debug)
