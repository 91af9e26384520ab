"""The cells of a table: one contender on one set at one scale, each in a file of its own once it is computed.

A cell's key is a hash of all that its values depend on (weights, images, scale, degradation, protocol, options), so a
file that exists under this key need not be computed again, whatever model and set are called this time.
"""

import hashlib
import itertools
import json
from pathlib import Path
from typing import NamedTuple

import torch

from datasets.degradations import case
from models.evaluation.contenders import Contender, check_outputs, digest
from models.evaluation.loop import means
from models.evaluation.perceptual import Metric
from models.evaluation.sets import EvaluationSet, caption, find_config, make_set
from utils import UserError, error_prefix, merge, write_json


class Options(NamedTuple):
    """How all cells of a table are computed."""

    eight_bit: bool = False  # outputs are rounded to 8 bits before they are compared
    ensemble: bool = False  # outputs are means over the 8 flips and transpositions
    metrics: tuple[Metric, ...] = ()  # besides PSNR and SSIM


class Cell(NamedTuple):
    """What one entry of the table is the result of."""

    set: str
    degrade: str  # what is done to the LR images, one of `datasets.degradations.CASES`
    scale: tuple[float, ...]  # (sy, sx)
    contender: Contender
    dataset: EvaluationSet
    protocol: str
    key: str


def cells_of_set(
    label: str,
    name: str,
    degradations: list[str],
    scales: list[tuple[float, ...]],
    contenders: list[Contender],
    options: Options,
) -> list[Cell]:
    """All cells of the set that `find_config` finds by `name`: of every degradation, scale and contender, in this
    order. Raises UserError if they do not fit together, before anything is computed."""
    config = find_config(name)
    spec, protocol = config['dataset'], config['protocol']
    paired = spec['name'] == 'sr-evaluation-paired'
    cells: list[Cell] = []
    with error_prefix(name):
        if paired and degradations != ['clean']:
            raise UserError('-degrade goes with LR images that are made here, not with those of a set of pairs')
        for degrade, scale in itertools.product(degradations, scales):
            made = {} if paired else {'args': {'scale': list(scale), 'degrade': degrade}}
            dataset = make_set(merge(spec, made), protocol)
            if not cells:
                spec = merge(spec, {'args': {'dataset': dataset.dataset}})  # so its images are read only once
                images = digest(dataset.dataset)
            if paired:
                check_scale(dataset, scale)
            for contender in contenders:
                if contender.outputs:
                    check_outputs(contender.outputs, dataset)
                key = cell_key(contender, images, scale, degrade, protocol, options)
                cells.append(Cell(label, degrade, scale, contender, dataset, protocol, key))
    return cells


def cell_key(
    contender: Contender, images: str, scale: tuple[float, ...], degrade: str, protocol: str, options: Options
) -> str:
    """The key of a cell. `images`: the digest of the set's images. What is added here must leave the keys of cells
    without it as they are, or all that was computed before is computed again."""
    facts = [contender.identity, images, scale, protocol, options.eight_bit, options.ensemble]
    facts += [] if degrade == 'clean' else [repr(case(degrade))]
    facts += [f'{metric.name} {metric.source}' for metric in options.metrics]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def check_scale(dataset: EvaluationSet, scale: tuple[float, ...]) -> None:
    """Raise UserError unless all LR images of a set of pairs are of `scale`."""
    for i in range(len(dataset)):
        name, _, found = dataset.measure(i)
        if found != scale:
            raise UserError(f'{name}: the LR image is of scale {scale_text(found)}, not {scale_text(scale)}')


def scale_text(scale: tuple[float, ...]) -> str:
    """'x2', or '2x3.5' for height x width."""
    return f'x{scale[0]:g}' if scale[0] == scale[1] else f'{scale[0]:g}x{scale[1]:g}'


def set_text(name: str, degrade: str) -> str:
    """A set's name, and what is done to its LR images."""
    return name if degrade == 'clean' else f'{name}, {degrade}'


# ---------------------------------------------------------------- their files


def cell_file(folder: Path, cell: Cell) -> Path:
    """Where the cell's result lies in the `folder` of the evaluation."""
    return folder / 'cells' / f'{cell.key}.json'


def write_cell(folder: Path, cell: Cell, images: list[dict], options: Options) -> None:
    """Write the cell's result. `images`: the values of each image, as `evaluate_image` returns them."""
    found = cell.contender.file if cell.contender.outputs else None
    setting, protocol = caption(cell.dataset, cell.protocol, options.eight_bit, options.ensemble, found)
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


def read_cell(folder: Path, cell: Cell) -> dict:
    """The cell's result, with the names that set and contender have this time. Raises UserError if it is damaged."""
    path = cell_file(folder, cell)
    try:
        result = json.loads(path.read_text(encoding='utf-8'))
        result['images'] = [image | {'psnr': float(image['psnr'])} for image in result['images']]
        named = {'set': cell.set, 'degrade': cell.degrade, 'model': cell.contender.label}
        return result | {'psnr': float(result['psnr'])} | named
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f'{path}: not a result of this program; remove it') from error
