"""Measure the speed and peak memory of `render` and, beside it, of `query`, the evaluation point by point.

python scripts/benchmark.py -models edsr_baseline_MsIT edsr_baseline_liif edsr_baseline_lte -scales 2 4 8
python scripts/benchmark.py -models rdn_baseline_MsIT -photo 1000x750 -scales 2 4     # whole photos, `render` alone
python scripts/benchmark.py -methods        # the table of methods of models/README.md
"""

import contextlib
import ctypes
import math
import platform
import signal
import statistics
import sys
import time
from functools import partial
from pathlib import Path
from unittest import mock

if __name__ == '__main__' and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C just ends the seconds that the imports take

import torch
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import models  # noqa: E402
from datasets.pictures.sizes import parse_scale  # noqa: E402
from models.device import PRECISIONS, choose_device, described, keep_memory, timed  # noqa: E402
from models.export import exported  # noqa: E402
from models.export.graphs import has_graphs  # noqa: E402
from models.mlp import Linear  # noqa: E402
from models.native import in_use, msit_decoder, winograd  # noqa: E402
from models.rendering import first_layer, grid  # noqa: E402
from models.training.profile import Clock  # noqa: E402
from utils import Parser, UserError, load_config, positive, run_main, size, write_json  # noqa: E402

LONG_PRODUCT = 0.1  # seconds: a matrix product that takes this long is large enough to measure the rate
CHUNK = 30000  # points in a call of `query`
METHODS = [f'edsr_baseline_{name}' for name in ('MsIT', 'liif', 'lte', 'lte_fast', 'lmliif', 'lmlte')]
ENCODERS = ('edsr-baseline', 'edsr', 'rdn', 'rcan', 'swinir', 'light')  # of the table of methods
PARTS = {  # of rendering: the functions whose time each of them counts
    'encoding': ['model.encode_part', 'model.whole_maps', 'model.strip_maps'],
    'first layer': ['decoder.first_layer_in_blocks', 'shared.before_activation'],
    'MLP': ['decoder.perceptron', 'imnet.forward', 'imnet.after_first'],
}


def by_query(model, lr, size):
    """All pixels by `query`, in chunks: `(B, h * w, 3)`."""
    coord, cell = grid.pixel_centres(*size, lr.device), grid.cell_size(*size, lr.device)
    with torch.no_grad():
        features = model.encode(lr)
        return torch.cat(
            [model.query(features, part.expand(len(lr), -1, -1), cell) for part in coord.split(CHUNK)], dim=1
        )


def median_seconds(work, device, turn=0):
    """Seconds that `work` takes: the median of as many runs as start within `turn` seconds."""
    seconds = []
    while sum(seconds) < turn or not seconds:
        seconds.append(timed(work, device)[1])
    return statistics.median(seconds)


def peak_memory(work, device):
    """Peak memory of `work` in bytes, beyond what was held before; None where the system does not report it."""
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    try:
        ctypes.CDLL(None).malloc_trim(0)  # glibc: return freed memory to the system
        Path('/proc/self/clear_refs').write_text('5')  # Linux: reset the peak
        before = resident('VmRSS')
        work()
        return resident('VmHWM') - before
    except (OSError, AttributeError):
        return None


def resident(key):
    """A size of this process's memory in bytes, by its name in /proc/self/status."""
    lines = Path('/proc/self/status').read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key))


def multiply_adds(work):
    """Multiply-adds of the matrix products and convolutions in `work`. For the fast methods of
    `models.layers.convolution`, transforms do not count. The decoder is evaluated by torch, which can be counted."""
    by_winograd = []

    def counted(x, weight, bias):
        by_winograd.append(winograd.multiply_adds(x, weight))
        return convolve(x, weight, bias)

    convolve = winograd.winograd_conv2d
    with (
        one_thread(),
        mock.patch.object(msit_decoder, 'usable_for', return_value=False),
        mock.patch.object(winograd, 'winograd_conv2d', counted),
        FlopCounterMode(display=False, custom_mapping={torch.ops.aten.baddbmm_: flops_of_baddbmm}) as counter,
    ):
        work()
    return counter.get_total_flops() / 2 + sum(by_winograd)


@contextlib.contextmanager
def one_thread():
    """Run on one thread, as counters and clocks see only that of the caller."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def flops_of_baddbmm(into, a, b, out_shape=None, **_):
    """Twice the multiply-adds of `baddbmm_`, which torch's counter does not know, from its shapes."""
    return 2 * math.prod(a) * b[-1]


def parts_of_render(work, model, device):
    """Shares of the time that a rendering, `work`, spends in each of `PARTS` and in the 'rest', on one thread."""
    clock = Clock(device)

    def watch(owner, name, part):
        function = getattr(owner, name)

        def watched(*arguments, **options):
            with clock.part(part):
                return function(*arguments, **options)

        return mock.patch.object(owner, name, watched)

    owners = {'decoder': msit_decoder, 'shared': first_layer, 'model': model, 'imnet': getattr(model, 'imnet', None)}
    with one_thread(), contextlib.ExitStack() as watching:
        for part, functions in PARTS.items():
            for owner, name in (function.split('.') for function in functions):
                if hasattr(owners[owner], name):
                    watching.enter_context(watch(owners[owner], name, part))
        with clock.part('rest'):
            work()
    total = sum(clock.seconds.values())
    return {part: clock.seconds.get(part, 0) / total for part in (*PARTS, 'rest')}


def product_rates(device, precisions):
    """Multiply-adds per second of a large matrix product in each precision: the best of several runs, by `torch.mm` and
    as the MLP's layers compute it. The matrices are smaller where a large product takes long, as in bf16 on a CPU
    without instructions for it."""
    return {precision: product_rate(device, PRECISIONS[precision] or torch.float32) for precision in precisions}


def product_rate(device, dtype):
    largest, n, seconds = 8192 if device.type == 'cuda' else 2048, 128, 0
    while n < largest and seconds < LONG_PRODUCT:
        n *= 2
        a, b = (torch.rand(n, n, device=device).to(dtype) for _ in range(2))
        seconds = median_seconds(lambda: torch.mm(a, b), device)
    layer = Linear(n, n, bias=False, device=device, dtype=dtype).requires_grad_(False)
    works = partial(torch.mm, a, b), partial(layer, a)
    return n**3 / min(median_seconds(work, device) for _ in range(6) for work in works)


def benchmark(contenders, lr, size, precisions, repeats, turn, against_query, runtimes=None):
    """Measure all models at one size in turns, so that other load on the machine affects all of them alike. A turn is
    as many runs as start within `turn` seconds, so that caches and memory are as in steady work.

    `contenders`: models by name. Returns a dict of medians for each name and precision; with `against_query`, those in
    fp32 include `query`, and those of the models in `runtimes`, exported as ONNX, include onnxruntime.
    """
    works = {}
    for name, model in contenders.items():
        for precision in precisions:
            works[name, precision, 'render'] = partial(model.render, lr, size, precision=precision)
        if against_query and 'fp32' in precisions:
            works[name, 'fp32', 'query'] = partial(by_query, model, lr, size)
        if name in (runtimes or {}) and 'fp32' in precisions:
            works[name, 'fp32', 'onnxruntime'] = partial(runtimes[name].render, lr, size)
    seconds = {key: [] for key in works}
    for _ in range(1 + repeats):
        for key, work in works.items():
            seconds[key].append(median_seconds(work, lr.device, turn))
    rows = {}
    for (name, precision, way), work in works.items():
        row = rows.setdefault((name, precision), {'model': name, 'precision': precision})
        runs = seconds[name, precision, way][1:]  # the first turn warms up
        if way == 'onnxruntime':
            row['onnxruntime seconds'] = statistics.median(runs)
            continue
        row |= {
            f'{way} seconds': statistics.median(runs),
            f'{way} memory': peak_memory(work, lr.device),
            f'{way} multiply-adds': multiply_adds(work),
        }
        if way == 'render':
            row |= {
                f'{part} share': share for part, share in parts_of_render(work, contenders[name], lr.device).items()
            }
        if way == 'query':
            renders = seconds[name, precision, 'render'][1:]
            row['speedup'] = statistics.median(query / render for query, render in zip(runs, renders))
    return list(rows.values())


def photos(contenders, sizes, scales, device):
    """Measure the rendering of whole images, each once and in bands that are not kept, as the demo does: a row for each
    size, scale and model."""
    rows = []
    for height, width in sizes:
        lr = torch.rand(1, 3, height, width, device=device)
        for scale in scales:
            enlarged = round(height * scale[0]), round(width * scale[1])
            for name, model in contenders.items():
                model.render(lr[..., :48, :48], (96, 96))  # the first is slow
                seconds, work = [], partial(in_bands, model, lr, enlarged)
                with times_encoded(model, height * width) as times:
                    memory = peak_memory(lambda: seconds.append(timed(work, device)[1]), device)
                rows.append(
                    {
                        'model': name,
                        'input': f'{height}x{width}',
                        'scale': 'x'.join(f'{s:g}' for s in dict.fromkeys(scale)),
                        'seconds a megapixel': seconds[0] / math.prod(enlarged) * 1e6,
                        'memory': memory,
                        'encoded': sum(times) or None,
                    }
                )
    return rows


def in_bands(model, lr, size):
    """Render an image in bands, and keep none of them."""
    for band in model.render_bands(lr, size):
        del band


@contextlib.contextmanager
def times_encoded(model, pixels):
    """A list of numbers that add up to how many times an image of `pixels` is encoded in this context, as the share of
    the multiply-adds of the encoder's convolutions."""
    encoder = getattr(model, 'encoder', torch.nn.Module())
    convolutions = [module for module in encoder.modules() if isinstance(module, torch.nn.Conv2d)]
    every, times = sum(module.weight.numel() for module in convolutions), []

    def count(module, _, out):
        times.append(module.weight.numel() / every * out[0, 0].numel() / pixels)

    hooks = [module.register_forward_hook(count) for module in convolutions]
    try:
        yield times
    finally:
        for hook in hooks:
            hook.remove()


def build(name):
    """A model from a weight file, or with random weights from a training config (its path, or its name without `train_`
    and ending)."""
    if name.endswith(('.pth', '.safetensors')) or name in models.WITHOUT_WEIGHTS:
        return models.load(name)
    torch.manual_seed(0)
    return models.fold(models.build(spec_in(name))).eval().requires_grad_(False)


def spec_in(name):
    """The spec of the model of a training config, see `build`."""
    path = Path(name) if name.endswith('.yaml') else ROOT / 'configs' / 'train' / f'train_{name}.yaml'
    return load_config(path)['model']


# ---------------------------------------------------------------- the table of methods


class Given(torch.nn.Module):
    """In an encoder's place: features that are there already, so that what is left is the decoder."""

    def __init__(self, out_dim):
        super().__init__()
        self.out_dim, self.receptive_field, self.floats_per_pixel = out_dim, 0, out_dim

    def forward(self, x):
        torch.manual_seed(0)
        return torch.randn(len(x), self.out_dim, *x.shape[-2:])


def methods(configs, encoders, lr, size):
    """Two tables, of encoders and of decoders: parameters, and multiply-adds and seconds of one core for rendering `lr`
    at `size`. With an encoder a decoder takes the sum of both.

    `configs`: training configs whose models' decoders are taken, on 64 channels; encoders have their default sizes.
    Seconds are the process's own, which other load lengthens little.
    """
    lines = ['| encoder | parameters, M | multiply-adds, G | seconds |', '|---|---|---|---|']
    for name in encoders:
        torch.manual_seed(0)
        encoder = models.registry.make_encoder({'name': name}).eval().requires_grad_(False)
        lines.append(method(name, encoder, partial(encoder, 2 * lr - 1)))
    lines += ['', '| decoder | parameters, M | multiply-adds, G | seconds |', '|---|---|---|---|']
    for config in configs:
        spec = spec_in(config)
        encoder_spec = {'name': 'edsr-baseline', 'args': {'n_resblocks': 1}}
        torch.manual_seed(0)
        model = models.build({**spec, 'args': {**spec['args'], 'encoder_spec': encoder_spec}})
        model.encoder = Given(model.encoder.out_dim)
        model = model.eval().requires_grad_(False)
        lines.append(method(spec['name'], model, partial(model.render, lr, size)))
    return '\n'.join(lines)


def method(name, module, work):
    """A row of the table of methods: `work` is what `module` does."""
    with torch.inference_mode():
        count = multiply_adds(work)
    with one_thread(), torch.inference_mode():
        work()  # the first is slow
        began = time.process_time()
        work()
        seconds = time.process_time() - began
    parameters = sum(p.numel() for p in module.parameters())
    return f'| {name} | {parameters * 1e-6:.2f} | {count * 1e-9:.1f} | {seconds:.2f} |'


COLUMNS = {  # headings: the key of a row, its format, and a factor
    'model': ('model', '', None),
    'precision': ('precision', '', None),
    'input': ('input', '', None),
    'scale': ('scale', '', None),
    'render s': ('render seconds', '.3f', 1),
    'query s': ('query seconds', '.3f', 1),
    'speed-up': ('speedup', '.1f', 1),
    'onnxruntime s': ('onnxruntime seconds', '.3f', 1),
    'render peak MB': ('render memory', '.0f', 1e-6),
    'query peak MB': ('query memory', '.0f', 1e-6),
    'G multiply-adds': ('render multiply-adds', '.1f', 1e-9),
    '% of product rate': ('fraction', '.0f', 100),
    **{f'{part} %': (f'{part} share', '.0f', 100) for part in (*PARTS, 'rest')},
}


PHOTO_COLUMNS = {
    'model': ('model', '', None),
    'input': ('input', '', None),
    'scale': ('scale', '', None),
    's / megapixel of output': ('seconds a megapixel', '.2f', 1),
    'peak MB': ('memory', '.0f', 1e-6),
    'times encoded': ('encoded', '.2f', 1),
}


def table(rows, columns=COLUMNS):
    """The rows as a Markdown table; cells of what was not measured are empty."""
    asked = any('onnxruntime seconds' in row for row in rows)
    columns = {name: column for name, column in columns.items() if asked or name != 'onnxruntime s'}
    lines = [list(columns), ['---'] * len(columns)]
    for row in rows:
        lines.append(
            [
                '' if row.get(key) is None else format(row[key] if factor is None else row[key] * factor, form)
                for key, form, factor in columns.values()
            ]
        )
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def machine(device):
    """What was measured on."""
    if device.type == 'cuda':
        return described(device)
    code = 'compiled' if in_use(torch.float32) else 'not compiled'
    return f'{device} ({torch.get_num_threads()} threads, {platform.machine()}, {code})'


def parse():
    parser = Parser('Measure speed and peak memory of rendering.')
    parser.add_argument(
        '-models',
        nargs='+',
        default=['edsr_baseline_MsIT'],
        help='weight files, training configs or their names, or bicubic',
    )
    parser.add_argument(
        '-methods',
        nargs='*',
        metavar='CONFIG',
        help='instead, tables of encoders and of the decoders of these training configs (the published ones if none is '
        'given): parameters, multiply-adds and seconds of one core at x4',
    )
    parser.add_argument('-encoders', nargs='+', default=ENCODERS, metavar='NAME', help='of the table of methods')
    parser.add_argument('-inputs', nargs='+', type=size, default=[(48, 48)], help='LR sizes, height x width, as 48x48')
    parser.add_argument('-scales', nargs='+', default=['2', '4', '8'], help='scales, as 4 or 2x3.5')
    parser.add_argument('-precision', nargs='+', default=['fp32'], choices=PRECISIONS, help='precisions of render')
    parser.add_argument(
        '-photo', nargs='+', type=size, metavar='SIZE', help='whole images of these sizes instead, each rendered once'
    )
    parser.add_argument('-repeats', type=positive, default=3, help='interleaved turns')
    parser.add_argument('-turn', type=float, default=2, help='seconds of a turn: short work is run several times')
    parser.add_argument('-no-query', action='store_true', help='leave out the evaluation point by point')
    parser.add_argument('-onnx', action='store_true', help='also export the models and time onnxruntime, on the CPU')
    parser.add_argument('-output', type=Path, help='JSON file')
    parser.add_argument('-device', help='cpu, cuda, cuda:1, mps (default: chosen automatically)')
    parser.add_argument('-debug', action='store_true', help='show the traceback of an error')
    return parser.parse_args()


def main(args):
    if not 0 <= args.turn < math.inf:
        raise UserError(f'a turn is a number of seconds, not {args.turn}')
    if args.methods is not None:
        if args.device not in (None, 'cpu'):
            raise UserError(f'the table of methods has seconds of a CPU core, not of {args.device}')
        print(
            methods(
                args.methods or METHODS,
                args.encoders,
                torch.rand(1, 3, *args.inputs[0]),
                [4 * n for n in args.inputs[0]],
            )
        )
        return
    device = choose_device(args.device)
    keep_memory()
    scales = [parse_scale(text) for text in args.scales]
    contenders = {name: build(name).to(device) for name in args.models}
    if args.photo:
        rows = photos(contenders, args.photo, scales, device)
        caption = f'{machine(device)}, torch {torch.__version__}, one run each'
        print(f'{caption}\n{table(rows, PHOTO_COLUMNS)}')
        if args.output:
            write_json(args.output, {'caption': caption, 'rows': rows})
        return
    if args.onnx and device.type != 'cpu':
        raise UserError(f'onnxruntime is timed on the CPU alone, not beside {device}')
    runtimes = {name: exported(model) for name, model in contenders.items() if args.onnx and has_graphs(model)}
    rates, rows = product_rates(device, args.precision), []
    for height, width in args.inputs:
        lr = torch.rand(1, 3, height, width, device=device)
        for scale in scales:
            enlarged = round(height * scale[0]), round(width * scale[1])
            turns = args.precision, args.repeats, args.turn, not args.no_query
            for row in benchmark(contenders, lr, enlarged, *turns, runtimes):
                row |= {'input': f'{height}x{width}', 'scale': 'x'.join(f'{s:g}' for s in dict.fromkeys(scale))}
                rows.append(row)
    # measured again, as the machine may have been busy
    rates = {name: max(rate, rates[name]) for name, rate in product_rates(device, args.precision).items()}
    for row in rows:
        row['fraction'] = row['render multiply-adds'] / row['render seconds'] / rates[row['precision']]
    caption = (
        f'{machine(device)}, torch {torch.__version__}, medians of {args.repeats} interleaved turns; matrix '
        'product: ' + ', '.join(f'{rate * 2e-9:.0f} GFLOP/s in {name}' for name, rate in rates.items())
    )
    print(f'{caption}\n{table(rows)}')
    if args.output:
        write_json(args.output, {'caption': caption, 'multiply-adds per second': rates, 'rows': rows})


if __name__ == '__main__':
    arguments = parse()
    run_main(lambda: main(arguments), arguments.debug)
