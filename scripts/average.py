"""Average the weights of models of one architecture.

    python scripts/average.py a.pth b.pth -output mean.pth
    python scripts/average.py clean.pth noisy.pth -shares 0.7 0.3 -output blend.pth
    python scripts/average.py a.pth -half -output small.pth

The output ends in `.pth` or `.safetensors`; its card has what the models' cards have in common, and what was averaged.
"""

import signal
import sys
from pathlib import Path

if __name__ == '__main__' and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C just ends the seconds that the imports take

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch  # noqa: E402

import models  # noqa: E402
from models.weights.surgery import average  # noqa: E402
from utils import Parser, UserError, check_folder, run_main  # noqa: E402

ENDINGS = ('.pth', '.safetensors')


def parse():
    parser = Parser('Average the weights of models of one architecture.')
    parser.add_argument('models', nargs='+', metavar='MODEL', help='weight files')
    parser.add_argument(
        '-shares', nargs='+', type=float, metavar='S', help='of each model, numbers from 0 up; equal if left out'
    )
    parser.add_argument(
        '-output', required=True, type=Path, metavar='FILE', help='the weight file, .pth or .safetensors'
    )
    parser.add_argument('-half', action='store_true', help='store the weights as float16: a file of half the size')
    parser.add_argument('-debug', action='store_true', help='show the traceback of an error')
    return parser.parse_args()


def main(args):
    if args.output.suffix not in ENDINGS or args.output.is_dir():
        raise UserError(f'{args.output}: the output is a file that ends in {" or ".join(ENDINGS)}')
    check_folder(args.output.parent)
    loaded = [models.load(file, torch.float64) for file in args.models]
    shares = args.shares or [1] * len(loaded)
    model = average(loaded, shares).float()
    model.meta['average'] = ' + '.join(f'{share / sum(shares):.4g} {file}' for share, file in zip(shares, args.models))
    if args.half:
        model.half()
    try:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        models.save(args.output, model)
    except OSError as error:
        raise UserError(f'{args.output}: cannot be written ({error.strerror or error})') from error
    print(f'{model.meta["average"]}\nwritten: {args.output}')


if __name__ == '__main__':
    arguments = parse()
    run_main(lambda: main(arguments), arguments.debug)
