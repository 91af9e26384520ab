"""Super-resolve images to any size."""

import argparse
import collections
import contextlib
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

if __name__ == '__main__' and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C just ends the seconds that importing torch takes

import torch
from PIL import Image
from tqdm import tqdm

import models
from datasets.pictures.animation import check_animation, write_animation
from datasets.pictures.colour import to_srgb, unlike_srgb
from datasets.pictures.figures import comparison
from datasets.pictures.image_io import Picture, check_output, open_writer, over_white, read_image, write_figure
from datasets.pictures.jobs import Job, Plan, in_words, plan
from datasets.pictures.lossy import format_of
from datasets.pictures.sizes import by_longest, by_megapixels, by_resolution, by_scale, output_size
from models.device import PRECISIONS, choose_device, keep_memory
from models.rendering.estimate import announce
from models.rendering.upscaler import Upscaler, joined
from models.rendering.zoom import first_scale, zoom
from models.weights.bundled import BUNDLED, blended
from utils import Note, Parser, UserError, error_prefix, one_line, pixel, positive, run_main, shard, share

TRAINED = 1, 8  # smallest and largest scale of the training, for weight files that do not say
DEPTH, FRAMES = 16, 81  # of a zoom: the factor between its first and last frame, and their number
LARGEST_FRAME = 400  # longest side of a frame in pixels, unless a size is given
EXAMPLES = """examples:
  demo.py -input photo.jpg -scale 3.7 -output large.png               or demo.py photo.jpg -scale 3.7 -o large.png
  demo.py -input photo.jpg -resolution 2160, -output large.png -compare beside_bicubic.png
  demo.py -input photos -longest 3840 -format webp -output large      a folder and its subfolders; run again to continue
  demo.py -input "scans/*.tif" letter.png -scale 2,3.5 -output large  several inputs
  demo.py -input photos -output large -shard 2/8                      the second of eight machines
  demo.py -input photo.jpg -clean 0.5 -output large.png               less clean, more faithful
  demo.py -input photo.jpg -zoom 310,420 -output zoom.gif"""


def parse() -> argparse.Namespace:
    """The arguments of the command line."""
    parser = Parser('Super-resolve images to any size.')
    parser.epilog, parser.formatter_class = EXAMPLES, argparse.RawDescriptionHelpFormatter
    parser.add_argument('inputs', nargs='*', metavar='PATH', help='the same as -input')
    parser.add_argument('-input', '-i', nargs='+', metavar='PATH', help='images, folders, patterns as "*.jpg"')
    parser.add_argument('-output', '-o', metavar='PATH', help='the result, format by extension; or a folder')
    parser.add_argument(
        '-format',
        choices=['png', 'jpg', 'webp', 'tiff', 'bmp', 'avif'],
        help="format of results in a folder; each input's own if left out, PNG if that cannot be written",
    )
    parser.add_argument('-overwrite', action='store_true', help='replace results that exist')
    parser.add_argument('-shard', type=shard, metavar='I/N', help='only the I-th of N equal shares of the images')
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        '-scale',
        dest='size',
        type=by_scale,
        metavar='S',
        help='how much larger: 3.7, or 2,3.5 (or 2x3.5) for height,width; 4 if left out',
    )
    size.add_argument(
        '-resolution',
        dest='size',
        type=by_resolution,
        metavar='H,W',
        help='size of the result in pixels; H, or ,W keeps the ratio',
    )
    size.add_argument('-longest', dest='size', type=by_longest, metavar='N', help='longest side of the result')
    size.add_argument(
        '-megapixels', dest='size', type=by_megapixels, metavar='M', help='number of pixels of the result, in millions'
    )
    parser.add_argument(
        '-compare',
        type=Path,
        metavar='PATH',
        help='also write a figure of the result beside bicubic; a folder if -output is one',
    )
    parser.add_argument(
        '-zoom',
        type=pixel,
        metavar='Y,X',
        help=f'instead, write a GIF or MP4 that zooms into this pixel of the input, by a factor of {DEPTH}',
    )
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument(
        '-model',
        metavar='NAME',
        help='photo, for noise and compression artefacts; light, for clean images; bicubic; or a weight file. '
        'If this and -clean are left out, photo for files compressed with loss (JPEG, WebP, HEIC), light for others',
    )
    weights.add_argument(
        '-clean',
        type=share,
        metavar='C',
        help='how much noise and how many artefacts are removed: a blend of light (0, faithful) and photo (1, clean)',
    )
    parser.add_argument('-ensemble', action='store_true', help='average over the 8 flips and transpositions')
    parser.add_argument('-precision', default='fp32', choices=PRECISIONS, help='fp32 if left out; fp16 on CUDA only')
    parser.add_argument(
        '-tile', type=positive, metavar='N', help='side of tiles in input pixels; by free memory if left out'
    )
    parser.add_argument('-device', help='cpu, cuda, cuda:1, mps; chosen by itself if left out')
    parser.add_argument('-quiet', action='store_true', help='print errors only')
    parser.add_argument('-debug', action='store_true', help='show the traceback of an error')
    args = parser.parse_args()
    args.input = [*args.inputs, *(args.input or [])]
    missing = [option for option in ('-input', '-output') if not getattr(args, option[1:])]
    if missing:
        parser.error(f'missing: {" and ".join(missing)}')
    return args


def main(args: argparse.Namespace) -> int | None:
    """Run the program with the arguments of `parse`. Returns its exit status."""
    keep_memory()
    if args.quiet:
        warnings.simplefilter('ignore', Note)
    if args.zoom and (args.format or args.compare or args.shard):
        raise UserError('-zoom does not go with -format, -compare and -shard')
    check = check_animation if args.zoom else check_output
    todo = plan(
        args.input, args.output, args.format and f'.{args.format}', args.compare, args.overwrite, args.shard, check
    )
    if args.zoom and todo.into_folder:
        raise UserError('-zoom takes one image and makes one file')
    upscalers = Upscalers(args)
    if todo.into_folder:
        return super_resolve_all(todo, args, upscalers)
    facts, notes = (write_zoom if args.zoom else super_resolve)(*todo.jobs, args, upscalers)
    if not args.quiet:
        print('\n'.join(f'{name:8} {fact}' for name, fact in facts.items()))
        for note in notes:
            print(f'note: {note}', file=sys.stderr)


# ---------------------------------------------------------------- doing it


class Upscalers:
    """The upscalers of a run: a single one if weights were chosen on the command line, otherwise one for files
    compressed with loss and one for others, each made when it is first needed."""

    def __init__(self, args: argparse.Namespace):
        self.args, self.device, self.made = args, choose_device(args.device), {}
        self.asked = args.model if args.clean is None else f'light and photo, {args.clean:g} of photo'
        if self.asked is not None:
            self.of(self.asked)

    def of(self, name: str) -> Upscaler:
        """The upscaler with the weights of a file, of a bundled name, or of the blend that was chosen."""
        if name not in self.made:
            args = self.args
            self.made[name] = Upscaler(
                models.load(BUNDLED.get(name, name)) if args.clean is None else blended(args.clean),
                self.device,
                args.ensemble,
                tile=args.tile,
                precision=args.precision,
                progress=not (args.quiet or args.zoom),
            )
        return self.made[name]

    def for_file(self, path: Path) -> tuple[Upscaler, str, str]:
        """The upscaler for an image file, the name of its weights and, unless they were chosen, the reason for them."""
        if self.asked is not None:
            return self.of(self.asked), self.asked, ''
        kind, lossy = format_of(path)
        if lossy:
            return self.of('photo'), 'photo', f'{kind} loses detail; -model light takes the file as it is'
        return self.of('light'), 'light', f'{kind} loses nothing; -model photo removes noise and artefacts'


def super_resolve_all(todo: Plan, args: argparse.Namespace, upscalers: Upscalers) -> int:
    """Do all jobs that are not done yet. Images that fail are reported at the end, and then the exit status is 1."""
    jobs = todo.jobs
    waiting = jobs if args.overwrite else [job for job in jobs if not job.done]
    failed, said, used = list(todo.problems), collections.Counter(), collections.Counter()
    written = 0
    for number, job in enumerate(waiting, 1):
        try:
            for path in filter(None, (job.target, job.compare)):
                make_folder(path.parent)
            facts, notes = super_resolve(job, args, upscalers)
            used[facts['model']] += upscalers.asked is None
            line = f'{one_line(facts["output"])}  {facts["size"]}  {facts["seconds"]} s'
            written += 1
        except UserError as error:
            failed.append(error)
            line, notes = f'{one_line(job.source)}  failed', []
        if not args.quiet:
            print(f'[{number}/{len(waiting)}] {line}', flush=True)
            for note in notes:
                said[note] += 1
                if said[note] == 1:
                    print(f'note: {one_line(job.source)}: {note}', file=sys.stderr)
    if not args.quiet:
        for note, times in said.items():
            if times > 1:
                print(f'note: {note}: of {times} images', file=sys.stderr)
        for model, times in (+used).items():
            print(f'{model}: {times} image{"s" * (times > 1)}')
        there = len(jobs) - len(waiting)
        print(
            f'{written} of {len(jobs)} images written to {one_line(args.output)}'
            + (f', {there} were there already (-overwrite makes them anew)' if there else '')
            + (f', other files left out: {in_words(todo.others)}' if todo.others else '')
        )
    for error in failed:
        print(f'failed: {one_line(error)}', file=sys.stderr)
    return 1 if failed else 0


def make_folder(path: Path) -> None:
    """Make a folder and its parents. Raises UserError if that fails."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f'{path}: the folder cannot be made ({error.strerror})') from error


def super_resolve(job: Job, args: argparse.Namespace, upscalers: Upscalers) -> tuple[dict, list[str]]:
    """Do a job. Returns facts about it by name, and notes."""
    picture, notes = read_image(job.source)
    upscaler, model, reason = upscalers.for_file(job.source)
    input_size = tuple(picture.rgb.shape[-2:])
    with error_prefix(job.source):
        size = output_size(input_size, args.size or by_scale('4'))
    if job.compare and len(upscaler.strips(size)) > 1:
        raise UserError(
            f'{job.source}: the result, {size[0]} x {size[1]} pixels, does not fit into memory, as a '
            'comparison needs it; leave out -compare'
        )
    start = time.perf_counter()
    with error_prefix(job.source), as_notes(notes), open_writer(job.target, size, picture) as writer:
        if not args.quiet:
            announce(one_line(job.source), upscaler.image, picture.rgb, size, 1 + (picture.alpha is not None))
        bands = []
        for band in upscaler.bands(picture, size):
            writer.write(band.rgb if band.alpha is None else torch.cat([band.rgb, band.alpha]))
            if job.compare:
                bands.append(band)
            del band  # before the next one is made
    seconds = time.perf_counter() - start
    notes += writer.notes
    if job.compare:
        with error_prefix(job.source), as_notes(notes):
            result = joined(bands)
            bands.clear()
            figure = beside_bicubic(picture, result, upscaler.model.spec['name'].upper())
        notes += write_figure(job.compare, figure, picture.labels)
    scales = [n / m for n, m in zip(size, input_size)]
    facts = {
        'output': job.target,
        'compare': job.compare,
        'input': f'{input_size[0]} x {input_size[1]} (height x width)',
        'size': f'{size[0]} x {size[1]}',
        'scale': ' x '.join(dict.fromkeys(f'{scale:.4g}' for scale in scales)),
        'model': f'{model} ({reason})' if reason else model,
        'device': upscaler.device,
        'code': upscaler.code,
        'seconds': f'{seconds:.2f}',
    }
    return {name: fact for name, fact in facts.items() if fact is not None}, notes + beyond(upscaler.model, scales)


def beside_bicubic(picture: Picture, result: Picture, label: str) -> Image.Image:
    """The figure of the input, bicubic and the model's result, all on white and as sRGB."""
    lr, sr = seen(picture), seen(result)
    bicubic = models.make({'name': 'bicubic'}).render(lr[None], sr.shape[-2:])[0]
    return comparison(lr, [('bicubic', bicubic), (label, sr)])


def seen(picture: Picture) -> torch.Tensor:
    """A `Picture` on white as sRGB, `(3, H, W)`; warns if its profile cannot be applied."""
    rgb = picture.rgb if picture.alpha is None else over_white(picture.rgb, picture.alpha.clamp(0, 1))
    try:
        return to_srgb(rgb, picture.icc) if picture.icc else rgb
    except UserError as error:
        warnings.warn(str(error), stacklevel=2)
        return rgb


def write_zoom(job: Job, args: argparse.Namespace, upscalers: Upscalers) -> tuple[dict, list[str]]:
    """The same as `super_resolve` for a job whose target is an animation."""
    picture, notes = read_image(job.source)
    upscaler, model, reason = upscalers.for_file(job.source)
    with as_notes(notes):
        lr = seen(picture)
    unlike = unlike_srgb(picture.labels, picture.icc)
    notes += [f'an animation is written without {" and ".join(unlike)}: its colours look different'] * bool(unlike)
    input_size = tuple(lr.shape[-2:])
    if not all(at < n for at, n in zip(args.zoom, input_size)):
        extent = f'{input_size[0]} x {input_size[1]} pixels'
        raise UserError(f'{job.source}: row {args.zoom[0]}, column {args.zoom[1]} is outside its {extent}')
    size = output_size(input_size, args.size) if args.size else [min(n, LARGEST_FRAME) for n in input_size]
    size = [max(1, n - n % 2) for n in size]  # even, which video codecs need
    first = first_scale(input_size, size)
    start = time.perf_counter()
    with error_prefix(job.source), as_notes(notes):
        frames = zoom(upscaler.image, lr, size, args.zoom, DEPTH, FRAMES)
        frames = tqdm(frames, total=FRAMES, unit='frame', leave=False, disable=args.quiet or None)
        write_animation(job.target, frames)
    return {
        'output': job.target,
        'input': f'{input_size[0]} x {input_size[1]} (height x width)',
        'size': f'{size[0]} x {size[1]}, {FRAMES} frames',
        'scale': f'{first:.4g} to {first * DEPTH:.4g}',
        'model': f'{model} ({reason})' if reason else model,
        'device': upscaler.device,
        'code': upscaler.code,
        'seconds': f'{time.perf_counter() - start:.2f}',
    }, list(dict.fromkeys(notes))


def beyond(model: torch.nn.Module, scales: list[float]) -> list[str]:
    """A list with a note if the weights were not trained for `scales`."""
    low, high = (model.meta.get(key, default) for key, default in zip(('scale_min', 'scale_max'), TRAINED))
    if model.spec['name'] in models.WITHOUT_WEIGHTS or low <= min(scales) <= max(scales) <= high:
        return []
    return [f'the weights are trained for scales from {low:g} to {high:g}; beyond these, quality is lower']


@contextlib.contextmanager
def as_notes(notes: list[str]) -> Iterator[None]:
    """A context whose warnings are added to `notes`, each once."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        yield
    notes += dict.fromkeys(str(warning.message) for warning in caught)


if __name__ == '__main__':
    arguments = parse()
    run_main(lambda: main(arguments), arguments.debug)
