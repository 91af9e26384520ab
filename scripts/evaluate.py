"""Evaluate models on sets of images at any scales, in one table.

    python scripts/evaluate.py -models modelzoo/EDSR_light_MSIT.pth bicubic -sets set5 set14 -scales 2 3 4 3.3 2x3.5
    torchrun --nproc_per_node 4 scripts/evaluate.py ...         # shared by 4 processes, with the same result

Every entry of the table is kept in a file of its own as soon as it is known, and not computed again.
"""

import csv
import datetime
import hashlib
import io
import json
import os
import signal
import sys
from pathlib import Path
from typing import NamedTuple

if __name__ == '__main__' and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C just ends the seconds that the imports take

import numpy as np
import torch
from torch import distributed

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import models  # noqa: E402
from datasets.resize import parse_scale  # noqa: E402
from models.device import choose_device, keep_memory  # noqa: E402
from models.evaluation.loop import evaluate_image, means  # noqa: E402
from models.evaluation.sets import caption, make_set, read_config  # noqa: E402
from models.rendering.estimate import announce  # noqa: E402
from utils import (  # noqa: E402
    Parser,
    UserError,
    atomic_path,
    check_folder,
    error_prefix,
    labelled,
    merge,
    progress,
    run_main,
    suggestion,
    write_json,
    write_text,
)

SETS = {path.stem: path for path in (ROOT / 'configs' / 'test').glob('*.yaml') if not path.stem.startswith('test-')}
LONG = datetime.timedelta(days=30)  # for others' work, or the first one's reading


class Contender(NamedTuple):
    """A model of the table."""

    label: str
    file: str
    identity: str  # SHA-256 of its weight file; the name of a model that has none
    model: torch.nn.Module

    @property
    def parameters(self):
        return sum(parameter.numel() for parameter in self.model.parameters())


class Cell(NamedTuple):
    """An entry of the table: what it is the result of."""

    set: str
    scale: tuple  # (sy, sx)
    contender: Contender
    dataset: object
    protocol: str
    key: str  # the same for the same weights, images, scale and protocol


def parse():
    parser = Parser('Evaluate models on sets of images at any scales, in one table.')
    parser.add_argument('-models', required=True, nargs='+', metavar='MODEL', help='weight files, or bicubic')
    parser.add_argument(
        '-sets',
        required=True,
        nargs='+',
        metavar='SET',
        help=f'{", ".join(sorted(SETS))}, a folder of HR images, or a config as in configs/test',
    )
    parser.add_argument('-scales', required=True, nargs='+', metavar='S', help='2, 3.3, or 2x3.5 for height x width')
    parser.add_argument('-name', default='evaluation', help='folder in save/ for the results; evaluation if left out')
    parser.add_argument('-ensemble', action='store_true', help='average over the 8 flips and transpositions')
    parser.add_argument('-eight-bit', action='store_true', help='round the outputs to 8 bits before they are compared')
    parser.add_argument('-device', help='cpu, cuda, cuda:1, mps; chosen by itself if left out')
    parser.add_argument('-debug', action='store_true', help='show the traceback of an error')
    return parser.parse_args()


def main(args):
    keep_memory()
    folder = Path('save') / args.name
    scales = list(dict.fromkeys(map(parse_scale, args.scales)))
    check_folder(folder / 'cells')
    device = own_device(args.device)
    contenders = [
        Contender(label, where, identity(where), models.load(where)) for label, where in labelled(args.models)
    ]
    cells = [
        cell
        for label, where in labelled(args.sets)
        for cell in set_cells(label, where, scales, contenders, args.eight_bit, args.ensemble)
    ]
    store, rank = processes()
    if rank == 0:
        (folder / 'cells').mkdir(parents=True, exist_ok=True)
        store.set('todo', json.dumps([cell.key for cell in cells if not cell_file(folder, cell).exists()]))
    compute(cells, store, rank, folder, device, args)
    if rank == 0:
        report(folder, cells, args)


# ---------------------------------------------------------------- what is to be done


def identity(where):
    if where in models.WITHOUT_WEIGHTS or not Path(where).is_file():
        return where
    return hashlib.sha256(Path(where).read_bytes()).hexdigest()


def set_config(where):
    """The config of a set: by its name, of a folder, or read from a file."""
    if where in SETS:
        return read_config(SETS[where])
    if Path(where).suffix == '.yaml':
        return read_config(Path(where))
    if Path(where).is_dir():
        images = {'name': 'image-folder', 'args': {'root_path': where, 'cache': 'in_memory'}}
        return {'dataset': {'name': 'sr-evaluation', 'args': {'dataset': images}}, 'protocol': 'benchmark'}
    raise UserError(f'{where}: neither a folder nor a config nor a set{suggestion(where, SETS)}')


def set_cells(label, where, scales, contenders, eight_bit, ensemble):
    """The cells of a set. Raises UserError for what does not fit together, before anything is computed."""
    config = set_config(where)
    spec, protocol, cells = config['dataset'], config['protocol'], []
    paired = spec['name'] == 'sr-evaluation-paired'
    with error_prefix(where):
        for scale in scales:
            dataset = make_set(spec if paired else merge(spec, {'args': {'scale': list(scale)}}), protocol)
            if not cells:
                spec = merge(spec, {'args': {'dataset': dataset.dataset}})  # its images are read once
                images = digest(dataset.dataset)
            if paired:
                check_scale(dataset, scale)
            for contender in contenders:
                facts = [contender.identity, images, scale, protocol, eight_bit, ensemble]
                key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]
                cells.append(Cell(label, scale, contender, dataset, protocol, key))
    return cells


def check_scale(dataset, scale):
    """Raise UserError unless all LR images that were found are of `scale`."""
    for i in range(len(dataset)):
        name, _, found = dataset.measure(i)
        if found != scale:
            raise UserError(f'{name}: the LR image is of scale {scale_text(found)}, not {scale_text(scale)}')


def digest(images):
    """SHA-256 of the names and pixels of a dataset of images, or of pairs of them."""
    sha = hashlib.sha256()
    for i in range(len(images)):
        item = images[i]
        for image in item if isinstance(item, tuple) else (item,):
            sha.update(f'{images.name(i)} {image.shape}\n'.encode(errors='surrogateescape'))  # names may not be UTF-8
            sha.update(np.ascontiguousarray(image))
    return sha.hexdigest()


def cell_file(folder, cell):
    return folder / 'cells' / f'{cell.key}.json'


# ---------------------------------------------------------------- doing it


def own_device(name):
    """The device of this process: where several share a machine, each the next GPU."""
    device = choose_device(name)
    if device.type == 'cuda' and device.index is None:
        return torch.device('cuda', int(os.environ.get('LOCAL_RANK', 0)) % torch.cuda.device_count())
    return device


def processes():
    """What the processes that torchrun started share, a store, and this one's number; without torchrun it is alone."""
    if 'RANK' not in os.environ:
        return distributed.HashStore(), 0
    store, rank, _ = next(distributed.rendezvous('env://'))
    return store, rank


def compute(cells, store, rank, folder, device, args):
    """Compute the cells that are to be done, image by image: whichever process is free takes the next one. The first
    process writes the cells."""
    store.wait(['todo'], LONG)
    by_key = {cell.key: cell for cell in cells}
    todo = list(dict.fromkeys(json.loads(store.get('todo'))))
    if not set(todo) <= set(by_key):
        raise UserError('the images or the weights are not those of the first process')
    jobs = [(key, i) for key in todo for i in range(len(by_key[key].dataset))]
    ready = set()
    with progress(len(jobs), shown=rank == 0) as bar:
        while (job := store.add('jobs', 1) - 1) < len(jobs):
            bar.update(job - bar.n)
            key, i = jobs[job]
            contender = by_key[key].contender
            if contender not in ready:
                contender.model.to(device)
                contender.model.render(torch.zeros(1, 3, 16, 16, device=device), (32, 32))  # the first is slow
                ready.add(contender)
                if rank == 0:
                    announce_share(by_key[key], [by_key[key] for key, _ in jobs], device, args.ensemble)
            image = compute_image(by_key[key], i, device, args)
            store.set(image_keys(by_key[key])[i], json.dumps(image | {'device': describe(device)}))
            if rank == 0:
                for key in [key for key in todo if store.check(image_keys(by_key[key]))]:
                    write_cell(by_key[key], store, folder, args)
                    todo.remove(key)
        bar.update(len(jobs) - bar.n)
    if rank == 0:
        for key in todo:
            store.wait(image_keys(by_key[key]), LONG)
            write_cell(by_key[key], store, folder, args)


def announce_share(cell, all_cells, device, ensemble):
    """Say about how long the cell's model will take for all images, as long as for the cell's first."""
    item = cell.dataset[0]
    times = [one.contender for one in all_cells].count(cell.contender) * (8 if ensemble else 1)
    times /= int(os.environ.get('WORLD_SIZE', 1))
    lr, size = item['lr'][None].to(device), item['hr'].shape[-2:]
    announce(cell.contender.label, cell.contender.model.render, lr, size, times)


def compute_image(cell, i, device, args):
    """The values of image `i` of the cell. Raises UserError if the output is not finite."""
    with error_prefix(f'{cell.contender.label} on {cell.set} at {scale_text(cell.scale)}'):
        image, sr = evaluate_image(
            cell.contender.model, cell.dataset[i], cell.protocol, device, args.eight_bit, args.ensemble
        )
        if not sr.isfinite().all():
            raise UserError(f'{image["name"]}: the model makes values that are not finite')
    return image


def image_keys(cell):
    """Under which keys of the store the values of the cell's images lie as soon as they are known."""
    return [f'{cell.key}/{i}' for i in range(len(cell.dataset))]


def write_cell(cell, store, folder, args):
    images = [json.loads(store.get(key)) for key in image_keys(cell)]
    setting, protocol = caption(cell.dataset, cell.protocol, args.eight_bit, args.ensemble)
    facts = {
        'set': cell.set,
        'scale': scale_text(cell.scale),
        'model': cell.contender.label,
        'file': cell.contender.file,
        'identity': cell.contender.identity,
        'parameters': cell.contender.parameters,
        'setting': setting,
        'protocol': protocol,
        'torch': torch.__version__,
    }
    write_json(cell_file(folder, cell), facts | means(images) | {'images': images})


def describe(device):
    """What the seconds were taken on."""
    if device.type == 'cuda':
        return torch.cuda.get_device_name(device)
    return f'{device} (threads: {torch.get_num_threads()})'


# ---------------------------------------------------------------- telling it


def scale_text(scale):
    return f'x{scale[0]:g}' if scale[0] == scale[1] else f'{scale[0]:g}x{scale[1]:g}'


def report(folder, cells, args):
    """Write and print the table of all cells, which are there."""
    results = [read_cell(folder, cell) for cell in cells]
    text = markdown(results)
    write_text(folder / 'table.md', text)
    write_text(folder / 'table.csv', as_csv(results))
    write_json(folder / 'table.json', results)
    written = 'table.md, table.csv, table.json'
    curves = [(cell, result) for cell, result in zip(cells, results) if cell.scale[0] == cell.scale[1]]
    if len({cell.scale for cell, _ in curves}) > 1:
        plot(folder / 'psnr.png', curves)
        written += ', psnr.png'
    print(f'{text}\n\nwritten to {folder}: {written}')


def read_cell(folder, cell):
    """The cell's result, under the names that it has this time."""
    path = cell_file(folder, cell)
    try:
        result = json.loads(path.read_text(encoding='utf-8'))
        result['images'] = [image | {'psnr': float(image['psnr'])} for image in result['images']]
        return result | {'psnr': float(result['psnr']), 'set': cell.set, 'model': cell.contender.label}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f'{path}: not a result of this program; remove it') from error


def markdown(results):
    """The table: a row a set and scale, a column a model; below it how its numbers were taken."""
    names = {result['model']: result for result in results}
    head = (f'{name} ({result["parameters"]:,} parameters)' for name, result in names.items())
    lines = ['| set | scale | ' + ' | '.join(head) + ' |', '|---' * (2 + len(names)) + '|']
    for first in range(0, len(results), len(names)):
        row = results[first : first + len(names)]
        values = (f'{r["psnr"]:.2f} / {r["ssim"]:.4f} / {r["seconds"]:.3g}' for r in row)
        lines.append(f'| {row[0]["set"]} | {row[0]["scale"]} | ' + ' | '.join(values) + ' |')
    devices = dict.fromkeys(image['device'] for result in results for image in result['images'])
    lines += [
        '',
        "PSNR (dB) / SSIM / seconds, means of the images' values; the seconds are those of the rendering "
        f'alone, on {"; ".join(devices)}.',
        '',
    ]
    for protocol in dict.fromkeys(result['protocol'] for result in results):
        alike = [result for result in results if result['protocol'] == protocol]
        lines += [f'{", ".join(dict.fromkeys(result["set"] for result in alike))}: {protocol}. At', '']
        lines += [f'- {setting}' for setting in dict.fromkeys(result['setting'] for result in alike)] + ['']
    lines += [
        f'- {result["model"]} on {result["set"]} at {result["scale"]}: PSNR is infinite for {equal} of '
        f'{len(result["images"])} images, equal to the original, and so on average'
        for result in results
        if (equal := sum(image['psnr'] == float('inf') for image in result['images']))
    ]
    return '\n'.join(lines).rstrip()


def as_csv(results):
    """A line a cell."""
    columns = [
        'set',
        'scale',
        'model',
        'psnr',
        'ssim',
        'seconds',
        'parameters',
        'file',
        'identity',
        'setting',
        'protocol',
    ]
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, extrasaction='ignore', lineterminator='\n')
    writer.writeheader()
    writer.writerows(results)
    return out.getvalue().rstrip('\n')


def plot(path, curves):
    """PSNR over scale, a line a model, sets beside each other; infinite values are left out."""
    from matplotlib.figure import Figure  # here, since it is slow and other processes and errors need none

    sets = {cell.set: None for cell, _ in curves}
    figure = Figure(figsize=(5 * len(sets), 4), layout='constrained')
    for axes, name in zip(figure.subplots(1, len(sets), squeeze=False)[0], sets):
        lines = {}
        for cell, result in curves:
            points = lines.setdefault(cell.contender.label, []) if cell.set == name else []
            if result['psnr'] < float('inf'):
                points.append((cell.scale[0], result['psnr']))
        for label, points in lines.items():
            axes.plot(*np.array(sorted(points)).reshape(-1, 2).T, marker='.', label=label)
        axes.set(title=name, xlabel='scale', ylabel='PSNR (dB)')
        axes.grid(alpha=0.3)
        axes.legend()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150)


if __name__ == '__main__':
    arguments = parse()
    run_main(lambda: main(arguments), arguments.debug)
