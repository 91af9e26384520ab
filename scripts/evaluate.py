"""Evaluate models on sets of images at any scales, in one table.

    python scripts/evaluate.py -models modelzoo/EDSR_light_MSIT.pth bicubic -sets set5 set14 -scales 2 3 4 3.3 2x3.5
    python scripts/evaluate.py -models nlmeans+light.pth photo.pth -sets set14 -scales 3 -degrade jpeg60 noise8
    python scripts/evaluate.py -outputs results/theirs -references data/Set5 -models a.pth -scales 4   # others' images
    torchrun --nproc_per_node 4 scripts/evaluate.py ...         # shared by 4 processes, with the same result

Every entry of the table is kept in a file of its own as soon as it is known, and not computed again.
"""

import os
import signal
import sys
from argparse import Namespace
from pathlib import Path

if __name__ == '__main__' and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C just ends the seconds that the imports take

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from datasets.degradations import CASES, case  # noqa: E402
from datasets.pictures.sizes import parse_scale  # noqa: E402
from models.device import choose_device, keep_memory  # noqa: E402
from models.evaluation.cells import Cell, Options, cells_of_set, read_cell  # noqa: E402
from models.evaluation.computation import compute_cells, join_processes  # noqa: E402
from models.evaluation.contenders import load_contender, load_outputs  # noqa: E402
from models.evaluation.denoised import PREFIX  # noqa: E402
from models.evaluation.perceptual import NAMES, make_metric  # noqa: E402
from models.evaluation.sets import SETS  # noqa: E402
from models.evaluation.table import as_csv, markdown, plot  # noqa: E402
from utils import Parser, UserError, check_folder, labelled, run_main, suggestion, write_json, write_text  # noqa: E402

OWN = ('psnr', 'ssim')  # metrics by the protocols of this project


def parse() -> Namespace:
    parser = Parser('Evaluate models on sets of images at any scales, in one table.')
    parser.add_argument(
        '-models',
        default=[],
        nargs='+',
        metavar='MODEL',
        help=f'weight files, or bicubic; {PREFIX}FILE: after scikit-image has denoised the LR images',
    )
    parser.add_argument(
        '-sets',
        default=[],
        nargs='+',
        metavar='SET',
        help=f'{", ".join(sorted(SETS))}, a folder of HR images, or a config as in configs/test',
    )
    parser.add_argument('-scales', required=True, nargs='+', metavar='S', help='2, 3.3, or 2x3.5 for height x width')
    parser.add_argument(
        '-degrade',
        nargs='+',
        default=['clean'],
        metavar='NAME',
        help=f'what happens to the LR images: {", ".join(CASES)}; clean if left out',
    )
    parser.add_argument(
        '-metrics',
        default=list(OWN),
        nargs='+',
        metavar='METRIC',
        help=f'{", ".join((*OWN, *NAMES))}; psnr ssim if left out',
    )
    parser.add_argument(
        '-outputs',
        default=[],
        nargs='+',
        metavar='FOLDER',
        help='images of another program, a column of the table each',
    )
    parser.add_argument('-references', metavar='FOLDER', help='the HR images of -outputs, in the place of -sets')
    parser.add_argument('-name', default='evaluation', help='folder in save/ for the results; evaluation if left out')
    parser.add_argument('-ensemble', action='store_true', help='average over the 8 flips and transpositions')
    parser.add_argument('-eight-bit', action='store_true', help='round the outputs to 8 bits before they are compared')
    parser.add_argument('-device', help='cpu, cuda, cuda:1, mps; chosen by itself if left out')
    parser.add_argument('-debug', action='store_true', help='show the traceback of an error')
    return parser.parse_args()


def main(args: Namespace) -> None:
    keep_memory()
    folder = Path('save') / args.name
    scales = list(dict.fromkeys(map(parse_scale, args.scales)))
    degradations = list(dict.fromkeys(args.degrade))
    check_options(args, scales)
    check_folder(folder / 'cells')
    device = choose_device(args.device, int(os.environ.get('LOCAL_RANK', 0)))  # each process takes the next GPU
    others = tuple(make_metric(name, device) for name in dict.fromkeys(args.metrics) if name not in OWN)
    options = Options(args.eight_bit, args.ensemble, others)
    contenders = [
        load_outputs(label, name) if name in args.outputs else load_contender(label, name)
        for label, name in labelled(args.models + args.outputs)
    ]
    cells = [
        cell
        for label, name in labelled([args.references] if args.references else args.sets)
        for cell in cells_of_set(label, name, degradations, scales, contenders, options)
    ]
    store, rank = join_processes()
    compute_cells(cells, store, rank, folder, device, options)
    if rank == 0:
        report(folder, cells, list(dict.fromkeys(args.metrics)), options)


def check_options(args: Namespace, scales: list) -> None:
    """Raise UserError for options that do not go together."""
    for name in args.metrics:
        if name not in (*OWN, *NAMES):
            raise UserError(f'unknown metric {name!r}{suggestion(name, (*OWN, *NAMES))}')
    for name in args.degrade:
        case(name)
    if not args.models and not args.outputs:
        raise UserError('nothing to evaluate: -models or -outputs is missing')
    if bool(args.outputs) != bool(args.references):
        raise UserError('-outputs, a folder of images, and -references, that of their originals, go together')
    if bool(args.sets) == bool(args.references):
        raise UserError('one of -sets and, with -outputs, -references tells which images are evaluated')
    if args.references and not Path(args.references).is_dir():
        raise UserError(f'{args.references}: no such folder')
    if args.outputs and len(scales) != 1:
        raise UserError(f'-outputs are of one scale, not of {len(scales)}')
    if args.outputs and args.degrade != ['clean']:
        raise UserError('-degrade goes with LR images that are made here, and -outputs are made already')


def report(folder: Path, cells: list[Cell], metrics: list[str], options: Options) -> None:
    """Write and print the table of all cells, which have been computed. `metrics`: those shown in the table."""
    results = [read_cell(folder, cell) for cell in cells]
    text = markdown(results, metrics, {metric.name: metric.source for metric in options.metrics})
    write_text(folder / 'table.md', text)
    write_text(folder / 'table.csv', as_csv(results, [metric.name for metric in options.metrics]))
    write_json(folder / 'table.json', results)
    written = 'table.md, table.csv, table.json'
    curves = [(cell, result) for cell, result in zip(cells, results) if cell.scale[0] == cell.scale[1]]
    if len({cell.scale for cell, _ in curves}) > 1:
        plot(folder / 'psnr.png', curves)
        written += ', psnr.png'
    print(f'{text}\n\nwritten to {folder}: {written}')


if __name__ == '__main__':
    arguments = parse()
    run_main(lambda: main(arguments), arguments.debug)
