"""Sets of images to evaluate on, checked before any work, and how numbers measured on them are described."""

from pathlib import Path

import datasets
from datasets.reduction import by_matlab
from datasets.wrappers import Evaluation, PairedEvaluation
from models.evaluation.metrics import border, check_large_enough
from utils import UserError, check_complete, error_prefix, load_config, suggestion

SCHEMA = {'dataset': {'name': None, 'args': None}, 'protocol': None}
CONFIGS = Path(__file__).resolve().parents[2] / 'configs' / 'test'
SETS = {path.stem: path for path in CONFIGS.glob('*.yaml') if not path.stem.startswith('test-')}  # known by name
DEFAULTS = CONFIGS / 'set5.yaml'  # an example of a complete config
WRAPPERS = ('sr-evaluation', 'sr-evaluation-paired')
EvaluationSet = Evaluation | PairedEvaluation


def read_test_config(path: Path) -> dict:
    """The test config at `path`, a dict with the spec of its 'dataset' and its 'protocol'.

    Raises UserError for missing and unknown keys; the arguments of the dataset are not checked.
    """
    config = {key: value for key, value in load_config(path, SCHEMA).items() if value}
    check_complete(config, SCHEMA, path, DEFAULTS)
    with error_prefix(path):
        border(config['protocol'], (1, 1))
        name = config['dataset'].get('name')
        if name not in WRAPPERS:
            raise UserError(f'no dataset to evaluate on: {name!r}{suggestion(name, WRAPPERS)}')
    return config


def find_config(name: str) -> dict:
    """The test config of a set that is known by name, of a YAML file, or of a folder of HR images (with the protocol
    'benchmark'). Raises UserError as `read_test_config` does, and if `name` is none of these."""
    if name in SETS:
        return read_test_config(SETS[name])
    if Path(name).suffix == '.yaml':
        return read_test_config(Path(name))
    if Path(name).is_dir():
        images = {'name': 'image-folder', 'args': {'root_path': name, 'cache': 'in_memory'}}
        return {'dataset': {'name': 'sr-evaluation', 'args': {'dataset': images}}, 'protocol': 'benchmark'}
    raise UserError(f'{name}: neither a folder nor a config nor a set{suggestion(name, SETS)}')


def make_set(spec: dict, protocol: str) -> EvaluationSet:
    """The dataset of a spec. Raises UserError for images that are unreadable or too small for the protocol."""
    dataset = datasets.make(spec)
    for i in range(len(dataset)):
        name, size, scale = dataset.measure(i)
        with error_prefix(name):
            check_large_enough(size, protocol, scale)
    return dataset


def caption(
    dataset: EvaluationSet, protocol: str, eight_bit: bool, ensemble: bool, found: str | None = None
) -> tuple[str, str]:
    """How the numbers are measured, in two parts: what depends on the scale, and what does not. `found`: the folder of
    the outputs, if another program has made them."""
    scale = getattr(dataset, 'scale', None)
    if scale is None:
        lr, shaved = 'LR images as found', f'ceil(scale) + {border(protocol, (0, 0))[0]}'
    else:
        equal = scale[0] == scale[1]
        factor = f'x{scale[0]:g}' if equal else f'x{scale[0]:g} in height and x{scale[1]:g} in width'
        lr = factor if found else f'{factor}, LR by {"MATLAB" if by_matlab(scale) else "PIL antialiased"} bicubic'
        lr += '' if dataset.degrade == 'clean' else f' and {dataset.degrade}: {dataset.degradation}'
        rows, columns = border(protocol, scale)
        shaved = f'{rows}' if rows == columns else f'{rows} rows and {columns} columns of'
    compared = f'PSNR on {"luma (Y)" if protocol == "benchmark" else "RGB"}, SSIM on luma'
    if found:
        return f'{lr}, {shaved} pixels shaved', f'{compared}, images as found in {found}; protocol {protocol}'
    output = 'output rounded to 8 bits' if eight_bit else 'clamped float output'
    return (
        f'{lr}, {shaved} pixels shaved',
        f'{compared}, {output}'
        f"{' of a self-ensemble of 8' if ensemble else ''}; cell of the output's pixels, not clamped to the "
        f'trained scales; protocol {protocol}',
    )
