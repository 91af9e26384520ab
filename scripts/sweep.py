"""Train a config with every combination of some settings, each as a run of its own, and compare the results.

    python scripts/sweep.py -config configs/train/train_edsr_light_MsIT.yaml -name lr \\
        -grid stages.stage1.lr=[1e-4,2e-4] seed=[0,1,2]

What is finished is left as it is and what was stopped goes on, so that the same command resumes a sweep.
"""

import itertools
import json
import queue
import signal
import subprocess
import sys
import threading
import time
from argparse import Namespace
from pathlib import Path

if __name__ == '__main__' and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C just ends the seconds that the imports take

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from models.training.config import read_training_config  # noqa: E402
from models.training.overrides import parsed  # noqa: E402
from models.training.stopping import handled, leave  # noqa: E402
from models.training.summary import summarise, table  # noqa: E402
from utils import Parser, UserError, run_main, write_text  # noqa: E402

SLEEP = 0.2  # seconds between two looks at the runs


def parse() -> Namespace:
    parser = Parser('Train a config with every combination of some settings, and compare the results.')
    parser.add_argument('-config', required=True, help='YAML config, see configs/train')
    parser.add_argument('-name', required=True, help='name of the sweep, a folder of runs in save/')
    parser.add_argument(
        '-grid',
        nargs='+',
        default=[],
        metavar='KEY=[VALUE,...]',
        help='every combination is a run, as seed=[0,1] stages.stage1.lr=[1e-4,2e-4]',
    )
    parser.add_argument(
        '-runs',
        nargs='+',
        default=[''],
        metavar='SETTINGS',
        help="each is a run (with each combination of -grid), as 'batch_size=16 seed=1' 'batch_size=8 seed=1'",
    )
    parser.add_argument('-devices', nargs='+', default=[None], metavar='DEVICE', help='as cuda:0 cuda:1; a run on each')
    parser.add_argument('-debug', action='store_true', help='show the traceback of an error')
    return parser.parse_args()


def settings_of_runs(grid: list[str], runs: list[str]) -> list[list[str]]:
    """The settings of each run, as train.py -set takes them. Raises UserError for a grid of another form."""
    axes = []
    for text in grid:
        keys, values = parsed(text)
        if not isinstance(values, list) or not values:
            raise UserError(f'-grid takes key=[value, ...], as seed=[0,1], not {text!r}')
        axes.append([f'{".".join(keys)}={json.dumps(value)}' for value in values])
    return [[*run.split(), *combination] for run in runs for combination in itertools.product(*axes)]


def label(settings: list[str]) -> str:
    """A folder's name for a run, of its settings: the last word of each key, and the value."""
    words = [f'{key.split(".")[-1]}={value}' for key, _, value in (text.partition('=') for text in settings)]
    return ''.join(letter if letter.isalnum() or letter in '=.,+-_' else '_' for letter in ','.join(words)) or 'run'


def command(args: Namespace, folder: Path, settings: list[str], device: str | None) -> list[str]:
    """The command that begins a run, or goes on with it."""
    words = [sys.executable, str(ROOT / 'train.py'), '-config', args.config, '-name', f'{args.name}/{folder.name}']
    words += ['-set', *settings] if settings else []
    words += ['-device', device] if device else []
    return words + (['-resume'] if folder.exists() else [])


def is_finished(folder: Path) -> bool:
    return (folder / 'config.yaml').is_file() and (folder / 'log.jsonl').is_file() and summarise(folder).finished


class Sweep:
    """The runs of a sweep, those that wait and those that are trained; `failed`: how each that failed did."""

    def __init__(self, args: Namespace, runs: dict[Path, list[str]]):
        self.args, self.runs = args, runs
        self.waiting: queue.SimpleQueue[Path] = queue.SimpleQueue()
        self.processes: dict[Path, subprocess.Popen] = {}
        self.failed: dict[Path, str] = {}
        self.stopping = threading.Event()

    def work(self, device: str | None) -> None:
        """Train runs on `device` until none is left or the sweep is stopped."""
        while not self.stopping.is_set():
            try:
                folder = self.waiting.get_nowait()
            except queue.Empty:
                return
            print(f'{folder}: {" ".join(self.runs[folder]) or "as the config"}', flush=True)
            said = folder.with_name(f'{folder.name}.txt')
            with open(said, 'ab') as file:
                process = subprocess.Popen(
                    command(self.args, folder, self.runs[folder], device), stdout=file, stderr=subprocess.STDOUT
                )
                self.processes[folder] = process
                if self.stopping.is_set():  # since it was looked at above
                    process.send_signal(signal.SIGTERM)
                status = process.wait()
            if status and not self.stopping.is_set():
                lines = said.read_text(encoding='utf-8', errors='replace').strip().splitlines()
                self.failed[folder] = lines[-1] if lines else f'status {status}'
                print(f'{folder}: failed, {self.failed[folder]}', flush=True)

    def stop(self) -> None:
        """Let the runs that are trained save and end."""
        self.stopping.set()
        for process in list(self.processes.values()):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)


def main(args: Namespace) -> int:
    """Train what is left of the sweep; returns the exit status. Raises UserError."""
    parent = Path('save') / args.name
    runs: dict[Path, list[str]] = {}
    for settings in settings_of_runs(args.grid, args.runs):
        read_training_config(args.config, settings)  # what is no setting is told before the first run
        folder = parent / label(settings)
        if folder in runs:
            raise UserError(f'two runs of this sweep would have the folder {folder}')
        runs[folder] = settings
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f'{parent}: cannot be written ({error.strerror})') from error
    sweep = Sweep(args, runs)
    for folder in runs:
        if not is_finished(folder):
            sweep.waiting.put(folder)
    threads = [threading.Thread(target=sweep.work, args=[device]) for device in args.devices]
    with handled(leave):
        try:
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                time.sleep(SLEEP)
        finally:
            sweep.stop()
            for thread in threads:
                thread.join()
    told = [summarise(folder) for folder in runs if (folder / 'log.jsonl').is_file()]
    text = table(told)
    write_text(parent / 'summary.md', text)
    print(text)
    return 1 if sweep.failed else 0


if __name__ == '__main__':
    arguments = parse()
    run_main(lambda: main(arguments), arguments.debug)
