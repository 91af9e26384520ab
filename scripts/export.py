"""Write a model as ONNX files, for runtimes other than torch; scripts/page/README.md says how they are used.

python scripts/export.py -model modelzoo/EDSR_light_MSIT.pth -output exported
"""

import signal
import sys
from pathlib import Path

if __name__ == '__main__' and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C just ends the seconds that the imports take

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import models  # noqa: E402
from models.export import KINDS, export, licence_of  # noqa: E402
from utils import Parser, UserError, check_folder, run_main  # noqa: E402


def parse():
    parser = Parser('Write a model as ONNX files: encode.onnx, decode.onnx, and model.json, which describes them.')
    parser.add_argument('-model', required=True, metavar='FILE', help='weights of msit, liif or lte')
    parser.add_argument('-output', required=True, type=Path, metavar='FOLDER', help='where to; made if it is not there')
    parser.add_argument(
        '-precision',
        default='fp32',
        choices=KINDS,
        help='how weights are stored; computing is in float32. Refused below 45 dB from fp32',
    )
    parser.add_argument('-licence', help='of the weights; if left out, what their file or the card beside it says')
    parser.add_argument('-debug', action='store_true', help='show the traceback of an error')
    return parser.parse_args()


def main(args):
    if args.model in models.WITHOUT_WEIGHTS:
        raise UserError(f'{args.model} has no weights to export')
    check_folder(args.output)
    model = models.load(args.model)
    args.output.mkdir(parents=True, exist_ok=True)
    told = export(model, args.output, args.model, args.precision, args.licence or licence_of(model, args.model))
    for name, graph in told['graphs'].items():
        print(f'{args.output / graph["file"]}  {graph["bytes"]:,} bytes')
    print(f'{args.output / "model.json"}')
    if told['decibels_from_float32'] is not None:
        print(f'weights in {args.precision}: {told["decibels_from_float32"]} dB from float32')


if __name__ == '__main__':
    arguments = parse()
    run_main(lambda: main(arguments), arguments.debug)
