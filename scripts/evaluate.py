"""Evaluate models on sets of images at any scales, in one table.

    python scripts/evaluate.py -models modelzoo/EDSR_light_MSIT.pth bicubic -sets set5 set14 -scales 2 3 4 3.3 2x3.5
    python scripts/evaluate.py -models nlmeans+light.pth photo.pth -sets set14 -scales 3 -degrade jpeg60 noise8
    python scripts/evaluate.py -outputs results/theirs -references data/Set5 -models a.pth -scales 4   # others' images
    torchrun --nproc_per_node 4 scripts/evaluate.py ...         # shared by 4 processes, with the same result

Every entry of the table is kept in a file of its own as soon as it is known, and not computed again.
"""

import csv
import datetime
import hashlib
import io
import itertools
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
from datasets.degradations import CASES, case  # noqa: E402
from datasets.image_folder import ImageFolder, partners, some  # noqa: E402
from datasets.pictures.sizes import parse_scale  # noqa: E402
from datasets.wrappers import to_tensor  # noqa: E402
from models.device import choose_device, described, keep_memory  # noqa: E402
from models.evaluation.denoised import PREFIX, Denoised  # noqa: E402
from models.evaluation.loop import compare, evaluate_image, means  # noqa: E402
from models.evaluation.metrics import shave  # noqa: E402
from models.evaluation.perceptual import NAMES, make_metric  # noqa: E402
from models.evaluation.sets import caption, make_set, read_test_config  # noqa: E402
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
OWN = ('psnr', 'ssim')  # metrics by the protocols of this project
FORMATS = {'psnr': '.2f', 'seconds': '.3g'}  # of an entry's numbers; others have four decimals
LONG = datetime.timedelta(days=30)  # for others' work, or the first one's reading


class Contender(NamedTuple):
    """A model of the table, or a folder of images that another program has made."""

    label: str
    file: str
    identity: str  # SHA-256 of its weight file, or of its images; the name of a model that has no weights
    model: torch.nn.Module | None
    outputs: ImageFolder | None = None

    @property
    def parameters(self):
        return None if self.model is None else sum(parameter.numel() for parameter in self.model.parameters())


class Cell(NamedTuple):
    """An entry of the table: what it is the result of."""

    set: str
    degrade: str  # what happens to its LR images, by name
    scale: tuple  # (sy, sx)
    contender: Contender
    dataset: object
    protocol: str
    key: str  # the same for the same weights, images, scale and protocol


def parse():
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


def main(args):
    keep_memory()
    folder = Path('save') / args.name
    scales = list(dict.fromkeys(map(parse_scale, args.scales)))
    degradations = list(dict.fromkeys(args.degrade))
    check_options(args, scales)
    check_folder(folder / 'cells')
    device = choose_device(args.device, int(os.environ.get('LOCAL_RANK', 0)))  # each process takes the next GPU
    others = [make_metric(name, device) for name in dict.fromkeys(args.metrics) if name not in OWN]
    contenders = [
        with_outputs(label, where) if where in args.outputs else Contender(label, where, identity(where), load(where))
        for label, where in labelled(args.models + args.outputs)
    ]
    cells = [
        cell
        for label, where in labelled([args.references] if args.references else args.sets)
        for cell in set_cells(label, where, degradations, scales, contenders, args.eight_bit, args.ensemble, others)
    ]
    store, rank = processes()
    if rank == 0:
        (folder / 'cells').mkdir(parents=True, exist_ok=True)
        store.set('todo', json.dumps([cell.key for cell in cells if not cell_file(folder, cell).exists()]))
    compute(cells, store, rank, folder, device, args, others)
    if rank == 0:
        report(folder, cells, args, others)


# ---------------------------------------------------------------- what is to be done


def load(where):
    """The model of a weight file or by its name, behind a denoiser where `where` says so."""
    return Denoised(models.load(where.removeprefix(PREFIX))) if where.startswith(PREFIX) else models.load(where)


def check_options(args, scales):
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


def with_outputs(label, where):
    images = ImageFolder(where, cache='in_memory')
    return Contender(label, where, digest(images), None, images)


def check_outputs(outputs, dataset):
    """Raise UserError if an output that belongs to an image of the set is missing or of another size."""
    references = dataset.dataset
    numbers = partners(references.files, outputs.files)
    lacking = [file.name for file, number in zip(references.files, numbers) if number is None]
    if lacking:
        raise UserError(
            f'{outputs.root}: no output for {len(lacking)} of the {len(numbers)} images of {references.root}: '
            f'{some(lacking)}'
        )
    for i, number in enumerate(numbers):
        name, size, _ = dataset.measure(i)
        found = outputs.size(number)
        if found not in (tuple(size), tuple(references.size(i))):
            raise UserError(
                f'{outputs.files[number]}: {found[0]} x {found[1]} pixels, where the original of {name} has '
                f'{size[0]} x {size[1]} at this scale'
            )


def identity(where):
    if where.startswith(PREFIX):
        return PREFIX + identity(where.removeprefix(PREFIX))
    if where in models.WITHOUT_WEIGHTS or not Path(where).is_file():
        return where
    return hashlib.sha256(Path(where).read_bytes()).hexdigest()


def set_config(where):
    """The config of a set: by its name, of a folder, or read from a file."""
    if where in SETS:
        return read_test_config(SETS[where])
    if Path(where).suffix == '.yaml':
        return read_test_config(Path(where))
    if Path(where).is_dir():
        images = {'name': 'image-folder', 'args': {'root_path': where, 'cache': 'in_memory'}}
        return {'dataset': {'name': 'sr-evaluation', 'args': {'dataset': images}}, 'protocol': 'benchmark'}
    raise UserError(f'{where}: neither a folder nor a config nor a set{suggestion(where, SETS)}')


def set_cells(label, where, degradations, scales, contenders, eight_bit, ensemble, others):
    """The cells of a set. Raises UserError for what does not fit together, before anything is computed."""
    config = set_config(where)
    spec, protocol, cells = config['dataset'], config['protocol'], []
    paired = spec['name'] == 'sr-evaluation-paired'
    with error_prefix(where):
        if paired and degradations != ['clean']:
            raise UserError('-degrade goes with LR images that are made here, not with those of a set of pairs')
        for degrade, scale in itertools.product(degradations, scales):
            made = {} if paired else {'args': {'scale': list(scale), 'degrade': degrade}}
            dataset = make_set(merge(spec, made), protocol)
            if not cells:
                spec = merge(spec, {'args': {'dataset': dataset.dataset}})  # its images are read once
                images = digest(dataset.dataset)
            if paired:
                check_scale(dataset, scale)
            for contender in contenders:
                facts = [contender.identity, images, scale, protocol, eight_bit, ensemble]
                facts += [] if degrade == 'clean' else [repr(case(degrade))]
                facts += [f'{metric.name} {metric.source}' for metric in others]
                if contender.outputs:
                    check_outputs(contender.outputs, dataset)
                key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]
                cells.append(Cell(label, degrade, scale, contender, dataset, protocol, key))
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


def processes():
    """What the processes that torchrun started share, a store, and this one's number; without torchrun it is alone."""
    if 'RANK' not in os.environ:
        return distributed.HashStore(), 0
    store, rank, _ = next(distributed.rendezvous('env://'))
    return store, rank


def compute(cells, store, rank, folder, device, args, others):
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
            if contender.model and contender not in ready:
                contender.model.to(device)
                contender.model.render(torch.zeros(1, 3, 16, 16, device=device), (32, 32))  # the first is slow
                ready.add(contender)
                if rank == 0:
                    announce_share(by_key[key], [by_key[key] for key, _ in jobs], device, args.ensemble)
            image = compute_image(by_key[key], i, device, args, others)
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


def compute_image(cell, i, device, args, others):
    """The values of image `i` of the cell. Raises UserError if the output is not finite."""
    item, where = cell.dataset[i], set_text(cell.set, cell.degrade)
    with error_prefix(f'{cell.contender.label} on {where} at {scale_text(cell.scale)}'):
        if cell.contender.outputs:
            sr = found_output(cell, i, item['hr'].shape[-2:])
            image = {'name': item['name'], **compare(sr, item, cell.protocol)}
        else:
            image, sr = evaluate_image(cell.contender.model, item, cell.protocol, device, args.eight_bit, args.ensemble)
        if not sr.isfinite().all():
            raise UserError(f'{image["name"]}: the model makes values that are not finite')
        shaved = [shave(picture, cell.protocol, item['scale']).to(device) for picture in (sr, item['hr'])]
        with error_prefix(item['name']):
            return image | {metric.name: metric(*shaved) for metric in others}


def found_output(cell, i, size):
    """The output of another program for image `i`, `(3, h, w)` in [0, 1], cropped as the original is."""
    outputs = cell.contender.outputs
    number = partners(cell.dataset.dataset.files, outputs.files)[i]
    return to_tensor(outputs[number]).float()[:, : size[0], : size[1]] / 255


def image_keys(cell):
    """Under which keys of the store the values of the cell's images lie as soon as they are known."""
    return [f'{cell.key}/{i}' for i in range(len(cell.dataset))]


def write_cell(cell, store, folder, args):
    images = [json.loads(store.get(key)) for key in image_keys(cell)]
    found = cell.contender.file if cell.contender.outputs else None
    setting, protocol = caption(cell.dataset, cell.protocol, args.eight_bit, args.ensemble, found)
    facts = {
        'set': cell.set,
        'degrade': cell.degrade,
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
        return described(device)
    return f'{device} (threads: {torch.get_num_threads()})'


# ---------------------------------------------------------------- telling it


def scale_text(scale):
    return f'x{scale[0]:g}' if scale[0] == scale[1] else f'{scale[0]:g}x{scale[1]:g}'


def set_text(name, degrade):
    """A set, with what happens to its LR images."""
    return name if degrade == 'clean' else f'{name}, {degrade}'


def report(folder, cells, args, others):
    """Write and print the table of all cells, which are there."""
    results = [read_cell(folder, cell) for cell in cells]
    metrics = list(dict.fromkeys(args.metrics))
    text = markdown(results, metrics, {metric.name: metric.source for metric in others})
    write_text(folder / 'table.md', text)
    write_text(folder / 'table.csv', as_csv(results, [metric.name for metric in others]))
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
        named = {'set': cell.set, 'degrade': cell.degrade, 'model': cell.contender.label}
        return result | {'psnr': float(result['psnr'])} | named
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f'{path}: not a result of this program; remove it') from error


def markdown(results, metrics, sources):
    """The table: a row a set and scale, a column a model; below it how its numbers were taken. `sources`: what other
    metrics than this project's own are computed by."""
    names = {result['model']: result for result in results}
    sizes = (result['parameters'] for result in names.values())
    head = (name if n is None else f'{name} ({n:,} parameters)' for name, n in zip(names, sizes))
    lines = ['| set | scale | ' + ' | '.join(head) + ' |', '|---' * (2 + len(names)) + '|']
    for first in range(0, len(results), len(names)):
        row = results[first : first + len(names)]
        values = (' / '.join(entry(r, key) for key in (*metrics, 'seconds')) for r in row)
        where = set_text(row[0]['set'], row[0]['degrade'])
        lines.append(f'| {where} | {row[0]["scale"]} | ' + ' | '.join(values) + ' |')
    devices = dict.fromkeys(image['device'] for result in results for image in result['images'])
    lines += [
        '',
        f'{" / ".join("PSNR (dB)" if name == "psnr" else name.upper() for name in metrics)} / seconds, means of the '
        f"images' values; the seconds are those of the rendering alone, on {'; '.join(devices)}.",
        '',
    ]
    lines += [f'{name.upper()}, of which less is better: {source}, on RGB.' for name, source in sources.items()]
    lines += [''] if sources else []
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


def entry(result, key):
    """A number of an entry of the table; images that another program has made have no seconds."""
    return format(result[key], FORMATS.get(key, '.4f')) if key in result else '-'


def as_csv(results, others):
    """A line a cell."""
    columns = [
        'set',
        'degrade',
        'scale',
        'model',
        'psnr',
        'ssim',
        *others,
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

    sets = {set_text(cell.set, cell.degrade): None for cell, _ in curves}
    figure = Figure(figsize=(5 * len(sets), 4), layout='constrained')
    for axes, name in zip(figure.subplots(1, len(sets), squeeze=False)[0], sets):
        lines = {}
        for cell, result in curves:
            points = lines.setdefault(cell.contender.label, []) if set_text(cell.set, cell.degrade) == name else []
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
