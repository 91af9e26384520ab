"""Which folder may import which, and that no modules import each other in a circle."""

import ast
from graphlib import TopologicalSorter

from conftest import ROOT

# What each folder may import besides itself, `utils` and, within models/, `models.device`.
MAY_IMPORT = {
    'models.native': set(),
    'models.layers': {'models.native'},
    'models.rendering': {'models.layers', 'models.native'},
    'models': {'models.layers', 'models.native', 'models.rendering', 'models.weights'},
    'models.weights': {'models', 'models.layers', 'models.rendering'},
    'models.evaluation': {'models', 'models.rendering', 'models.weights', 'datasets'},
    'models.training': {
        *('models', 'models.layers', 'models.rendering', 'models.weights', 'models.evaluation'),
        *('datasets', 'datasets.pictures'),
    },
    'models.export': {'models', 'models.layers', 'models.rendering'},
    'datasets': {'datasets.pictures'},
    'datasets.pictures': set(),
    'datasets.preparation': set(),
    'utils': set(),
}
PROGRAMS = {'train', 'test', 'demo', 'scripts'}  # may import everything, and nothing imports them


def module_name(path):
    """'models.native' of models/native/__init__.py, 'models.msit' of models/msit.py."""
    parts = path.relative_to(ROOT).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


FILES = [*ROOT.glob('*.py'), *(file for folder in ('models', 'datasets') for file in (ROOT / folder).rglob('*.py'))]
MODULES = {module_name(path): path for path in sorted(FILES)}


def folder_of(module):
    """'models.native' of 'models.native.library', 'models' of 'models.msit'."""
    return module if module in MAY_IMPORT else module.rpartition('.')[0] or module


def imports(path):
    """The modules of this repository that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f'{path}: a relative import'
            inner = [f'{node.module}.{alias.name}' for alias in node.names]
            names = [name if name in MODULES else node.module for name in inner]
        else:
            continue
        yield from (name for name in names if name in MODULES or name.split('.')[0] in PROGRAMS)


GRAPH = {module: set(imports(path)) for module, path in MODULES.items()}


def test_imports_run_downwards_only():
    wrong = []
    for module, imported in GRAPH.items():
        own = folder_of(module)
        if own in PROGRAMS:
            continue
        allowed = MAY_IMPORT[own] | {own, 'utils'}
        for other in imported:
            shared = other == 'models.device' and own.startswith('models')
            if not shared and folder_of(other) not in allowed:
                wrong.append(f'{module} imports {other}')
    assert not wrong


def test_no_modules_import_each_other_in_a_circle():
    TopologicalSorter(GRAPH).prepare()  # raises CycleError, which names the circle


def test_no_folders_import_each_other_in_a_circle():
    """Apart from a folder's `__init__`, which hands on names."""
    folders = {folder: set() for folder in MAY_IMPORT}
    for module, imported in GRAPH.items():
        if module not in folders:
            folders.setdefault(folder_of(module), set()).update(map(folder_of, imported - {'models.device', 'utils'}))
    TopologicalSorter({folder: others - {folder} for folder, others in folders.items()}).prepare()


def test_every_folder_is_in_the_table():
    assert {folder_of(module) for module in MODULES} == {*MAY_IMPORT, *PROGRAMS} - {'scripts'}
