"""Draw what weights make of an image like those they were trained on, and of three that are not: one saved as JPEG,
one with noise, one that is blurred.

    python scripts/limits.py            # the bundled weights; writes scripts/pictures/limits.png
"""

import io
import signal
import sys
from pathlib import Path

if __name__ == '__main__' and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C just ends the seconds that the imports take

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from torchvision.transforms.functional import to_pil_image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import models  # noqa: E402
from datasets.image_folder import read_rgb  # noqa: E402
from datasets.pictures.image_io import Picture, write_image  # noqa: E402
from datasets.reduction import reduced  # noqa: E402
from datasets.wrappers import to_tensor  # noqa: E402
from models.device import choose_device  # noqa: E402
from models.evaluation.metrics import psnr  # noqa: E402
from utils import Parser, run_main  # noqa: E402

PHOTO = ROOT / 'tests' / 'photos' / 'chelsea.png'
OUTPUT = ROOT / 'scripts' / 'pictures' / 'limits.png'
SCALE = 3
TOP, LEFT, HEIGHT, WIDTH = 24, 39, 33, 40  # what is shown, in LR pixels
PANEL, GAP, TEXT = (198, 240), 10, 14  # height and width of a panel, space and height of the labels, in pixels
QUALITY, NOISE, BLUR = 40, 8, 2.5  # of JPEG; standard deviations, of 255 and in pixels of the photo


def parse():
    parser = Parser('Draw what weights know and what they do not.')
    parser.add_argument(
        '-model',
        default=ROOT / 'modelzoo' / 'EDSR_light_MSIT.pth',
        type=Path,
        metavar='FILE',
        help='weights; the bundled ones if left out',
    )
    parser.add_argument(
        '-output', default=OUTPUT, type=Path, metavar='FILE', help=f'the figure; {OUTPUT.relative_to(ROOT)} if left out'
    )
    parser.add_argument('-device', help='cpu, cuda, cuda:1, mps; chosen by itself if left out')
    parser.add_argument('-debug', action='store_true', help='show the traceback of an error')
    return parser.parse_args()


def main(args):
    device = choose_device(args.device)
    contenders = {'bicubic': models.load('bicubic'), 'MSIT': models.load(args.model).to(device)}
    hr = read_rgb(PHOTO)
    truth, rows = to_tensor(hr) / 255, []
    for label, lr in inputs(hr):
        lr = to_tensor(lr) / 255
        images, labels = [lr], [label]
        for name, model in contenders.items():
            images.append(model.render(lr[None].to(device), truth.shape[-2:])[0].cpu().clamp(0, 1))
            labels.append(f'{name} {psnr(images[-1], truth, "benchmark", (SCALE, SCALE)):.2f} dB')
        print('  '.join(labels))
        rows.append(row([*labels, 'original'], [*map(part, [*images, truth], (1, SCALE, SCALE, SCALE))]))
    args.output.parent.mkdir(parents=True, exist_ok=True)
    write_image(args.output, Picture(to_tensor(np.concatenate(rows)) / 255))
    print(f'written: {args.output}')


def inputs(hr):
    """Labels and LR images, uint8, of `hr (H, W, 3)`: clean, and spoilt in the ways that photographs are."""
    clean, _ = reduced(hr, SCALE)
    yield 'reduced by bicubic', clean
    file = io.BytesIO()
    Image.fromarray(clean).save(file, 'JPEG', quality=QUALITY)
    yield f'then JPEG, quality {QUALITY}', np.asarray(Image.open(file))
    noise = np.random.default_rng(0).normal(scale=NOISE, size=clean.shape)
    yield f'then noise, {NOISE} of 255', (clean + noise).round().clip(0, 255).astype(np.uint8)
    blurred = Image.fromarray(hr).filter(ImageFilter.GaussianBlur(BLUR))
    yield f'blurred before, by {BLUR} pixels', reduced(np.asarray(blurred), SCALE)[0]


def part(image, scale):
    """What is shown of `image (3, h, w)`, `scale` times larger than the LR image."""
    return image[:, TOP * scale : (TOP + HEIGHT) * scale, LEFT * scale : (LEFT + WIDTH) * scale]


def row(labels, images):
    """A PIL image of panels beside each other, each an image `(3, h, w)` below its label; pixels stay squares."""
    drawn = Image.new('RGB', ((PANEL[1] + GAP) * len(images) + GAP, PANEL[0] + TEXT + 2 * GAP), 'white')
    for k, (label, image) in enumerate(zip(labels, images)):
        x = GAP + k * (PANEL[1] + GAP)
        ImageDraw.Draw(drawn).text((x, GAP // 2), label, 'black', ImageFont.load_default(TEXT))
        drawn.paste(to_pil_image(image).resize(PANEL[::-1], Image.Resampling.NEAREST), (x, TEXT + GAP))
    return drawn


if __name__ == '__main__':
    arguments = parse()
    run_main(lambda: main(arguments), arguments.debug)
