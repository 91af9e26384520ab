"""A table and a plot of training runs that exist: `python scripts/summary.py save/* -plot curves.png`."""

import signal
import sys
from argparse import Namespace
from pathlib import Path

if __name__ == '__main__' and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C just ends the seconds that the imports take

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from models.training.page import write_page  # noqa: E402
from models.training.summary import find_runs, plot, summarise, table  # noqa: E402
from utils import Parser, run_main  # noqa: E402


def parse() -> Namespace:
    parser = Parser('A table and a plot of training runs that exist.')
    parser.add_argument('runs', nargs='+', type=Path, metavar='FOLDER', help='folders of runs, or folders of these')
    parser.add_argument('-plot', type=Path, metavar='FILE', help='the curves of all runs, an image or PDF')
    parser.add_argument(
        '-pages', action='store_true', help="write each run's report.html anew, as at the end of a stage"
    )
    parser.add_argument('-debug', action='store_true', help='show the traceback of an error')
    return parser.parse_args()


def main(args: Namespace) -> None:
    folders = find_runs(args.runs)
    runs = [summarise(folder) for folder in folders]
    if args.plot:
        plot(runs, args.plot)
    for folder in folders if args.pages else ():
        write_page(folder)
    print(table(runs))


if __name__ == '__main__':
    arguments = parse()
    run_main(lambda: main(arguments), arguments.debug)
