"""Train a model from a config, stage by stage: `python train.py -config configs/train/train_edsr_light_MsIT.yaml`."""

import argparse
import os
import signal
import time
from pathlib import Path

if __name__ == '__main__' and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C just ends the seconds that importing torch takes

import torch

from models.training import parallel
from models.training.config import read_training_config
from models.training.profile import profile
from models.training.run import TIME_LIMIT, Run, check_folder_of_run, say
from models.training.stopping import handled, leave
from utils import Parser, UserError, run_main


def parse() -> argparse.Namespace:
    parser = Parser('Train a model from a config.')
    parser.add_argument('-config', required=True, help='YAML config, see configs/train')
    parser.add_argument('-name', help="name of the run, a folder in save/; the config's name if left out")
    parser.add_argument('-resume', action='store_true', help='go on where the run of this name stopped')
    parser.add_argument('-accept-changed-images', action='store_true', help='resume although they have changed')
    parser.add_argument('-init', help='weights that the first stage starts from')
    parser.add_argument(
        '-set',
        nargs='+',
        action='extend',
        default=[],
        metavar='KEY=VALUE',
        help='other values than the config has, as batch_size=16 stages.stage1.lr=2e-4',
    )
    parser.add_argument('-time-limit', type=float, metavar='MINUTES', help='validate, save and stop after so long')
    parser.add_argument('-device', help='cpu, cuda, cuda:1, mps; chosen by itself if left out')
    parser.add_argument('-profile', action='store_true', help='show where some first steps go, and write nothing')
    parser.add_argument('-debug', action='store_true', help='show the traceback of an error')
    return parser.parse_args()


def main(args: argparse.Namespace) -> int:
    """Train or profile; returns the exit status. Raises UserError."""
    config = read_training_config(args.config, args.set)
    if args.init:
        config['init'] = args.init
    with handled(leave):
        device = parallel.join(args.device)
        try:
            return train(config, device, args)
        except RuntimeError as error:
            if not parallel.lost_rank(error):
                raise
            raise UserError(f'another process of this training has ended ({str(error).splitlines()[0]})') from error
        finally:
            parallel.leave()


def train(config: dict, device: torch.device, args: argparse.Namespace) -> int:
    """Run what is left of a config's stages; returns the exit status. Nothing holds the run then."""
    folder = Path('save') / (args.name or Path(args.config).stem)
    if not args.profile:
        check_folder_of_run(folder, config, args.resume)
    with parallel.first_alone():  # which decodes the images, if they are to be cached
        run = Run(config, folder, device)
    if args.profile:
        say(profile(run, args.resume))
        return 0
    with run:
        if args.resume:
            run.resume(args.accept_changed_images)
        else:
            run.start()
        say_if_busy(device)
        done = run.train(float('inf') if args.time_limit is None else time.monotonic() + 60 * args.time_limit)
    say(f'{"finished" if done else "stopped by " + run.why_stopping()}: {folder}')
    return 0 if done or run.stopping == TIME_LIMIT else 1


def say_if_busy(device: torch.device) -> None:
    """Tell, before training on the CPU, that other programs compute there as well: threads then wait for each other.

    Their number is left alone: on it the last bits depend, and with them those of a run that is resumed.
    """
    threads, processors = torch.get_num_threads(), os.cpu_count() or 1
    load = os.getloadavg()[0] if hasattr(os, 'getloadavg') else 0
    if device.type == 'cpu' and threads > 1 and load + threads > processors + 0.5:
        say(
            f'note: this machine is busy (load {load:.1f} on {processors} processors); {threads} threads that wait for '
            f'each other may be several times slower than one, which OMP_NUM_THREADS=1 gives'
        )


if __name__ == '__main__':
    arguments = parse()
    run_main(lambda: main(arguments), arguments.debug)
