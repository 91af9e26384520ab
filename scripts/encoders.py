"""Measure encoding on the CPU: this project's code beside torch's convolutions and onnxruntime.

python scripts/encoders.py
python scripts/encoders.py -features 32 64 -models modelzoo/EDSR_light_MSIT.pth -input 180x320

The CPU seconds of one thread, which other work on the machine lengthens little: the least of several turns, in each of
which all three run. The encoders are EDSR's with 4 blocks, whose time is nearly all that of 3 x 3 convolutions between
as many features; of models, all of `encode` is measured.
"""

import signal
import sys
import time
from functools import partial
from pathlib import Path
from unittest import mock

if __name__ == '__main__' and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C just ends the seconds that the imports take

import torch
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import models  # noqa: E402
from models.device import keep_memory  # noqa: E402
from models.export.files import encode_proto  # noqa: E402
from models.export.graphs import graphs, in_plain_operations  # noqa: E402
from models.export.runtime import needs, session  # noqa: E402
from models.layers import convolution, fft_convolution  # noqa: E402
from models.native import winograd  # noqa: E402
from models.registry import make_encoder  # noqa: E402
from utils import Parser, positive, run_main, size  # noqa: E402

BLOCKS = 4
TURNS = 3
WAYS = ('this project', 'torch', 'onnxruntime')


class Encode(nn.Module):
    """An encoder alone, as a graph: `(1, 3, H, W)` to `(H, W, out_dim)`."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = in_plain_operations(encoder)

    def forward(self, lr):
        return self.encoder(lr)[0].permute(1, 2, 0)


def in_torch(work):
    """`work()` with torch's convolutions alone."""
    with (
        mock.patch.object(fft_convolution, 'is_faster', return_value=False),
        mock.patch.object(winograd, 'is_faster', return_value=False),
        mock.patch.object(convolution.winograd, 'is_faster_with_gradients', return_value=False),
    ):
        return work()


def measured(work, graph, lr):
    """CPU seconds of `work(lr)` in each of `WAYS`; `graph` is the same for onnxruntime."""
    runtime = session(encode_proto(graph).SerializeToString())
    ways = (
        partial(work, lr),
        partial(in_torch, partial(work, lr)),
        partial(runtime.run, None, {'lr': lr.contiguous().numpy()}),
    )
    seconds = [[] for _ in ways]
    for _ in range(1 + TURNS):
        for way, of_way in zip(ways, seconds):
            began = time.process_time()
            way()
            of_way.append(time.process_time() - began)
    return [min(of_way[1:]) for of_way in seconds]


def parse():
    parser = Parser('Measure encoding on the CPU beside torch and onnxruntime.')
    parser.add_argument('-features', nargs='*', type=positive, default=[24, 32, 48, 64, 256], help="EDSR's")
    parser.add_argument('-models', nargs='*', default=['modelzoo/EDSR_light_MSIT.pth'], help='weight files')
    parser.add_argument('-input', type=size, default=(180, 320), help='LR size, height x width')
    parser.add_argument('-debug', action='store_true', help='show the traceback of an error')
    return parser.parse_args()


def main(args):
    needs('onnx', 'onnxscript', 'onnxruntime')
    keep_memory()
    torch.set_num_threads(1)
    lr = torch.rand(1, 3, *args.input).contiguous(memory_format=torch.channels_last)  # as `render` has it
    print(f'| encoder | {" | ".join(f"{way}, CPU s" for way in WAYS)} | onnxruntime / this project |')
    print('|---' * (len(WAYS) + 2) + '|')
    with torch.inference_mode():
        for features in args.features:
            encoder = make_encoder({'name': 'edsr', 'args': {'n_resblocks': BLOCKS, 'n_feats': features}}).eval()
            row(f'EDSR, {BLOCKS} x {features}', encoder, Encode(encoder), lr)
        for name in args.models:
            model = models.load(name)
            row(f'{Path(name).stem}, all of `encode`', model.encode, graphs(model)[0], lr)


def row(name, work, graph, lr):
    seconds = measured(work, graph, lr)
    print(f'| {name} | {" | ".join(f"{s:.3f}" for s in seconds)} | {seconds[2] / seconds[0]:.2f} |', flush=True)


if __name__ == '__main__':
    arguments = parse()
    run_main(lambda: main(arguments), arguments.debug)
