"""The project's habits: type hints on public functions, a README of one sitting, links that lead somewhere."""

import ast
import re

import pytest
from conftest import ROOT

# Folders and files in which every public function has type hints.
ANNOTATED = ['models', 'datasets', 'utils.py', 'test.py', 'train.py', 'demo.py']
ANNOTATED += ['scripts/prepare_data.py', 'scripts/evaluate.py']
HIDDEN = ('self', 'cls')
LINK = re.compile(r'\[[^]]*\]\(([^)\s]+)\)')
PAGES = sorted(
    path for path in ROOT.rglob('*.md') if not {'.venv', '.cache', 'data', 'save'} & {*path.relative_to(ROOT).parts}
)
NOT_YET: set[str] = set()


def without_hints(path):
    """The public functions and methods of a file that lack the type of an argument or of the result."""

    def visit(node, owner=''):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef) and not child.name.startswith('_'):
                yield from visit(child, f'{owner}{child.name}.')
            elif isinstance(child, ast.FunctionDef) and (child.name == '__init__' or not child.name.startswith('_')):
                spec = child.args
                arguments = [*spec.posonlyargs, *spec.args, *spec.kwonlyargs, spec.vararg, spec.kwarg]
                hints = [argument.annotation for argument in arguments if argument and argument.arg not in HIDDEN]
                result = child.returns or child.name == '__init__'
                if not (result and all(hints)):
                    yield f'{path.relative_to(ROOT)}:{child.lineno} {owner}{child.name}'

    yield from visit(ast.parse(path.read_text(encoding='utf-8')))


@pytest.mark.parametrize('place', ANNOTATED)
def test_public_functions_have_type_hints(place):
    path = ROOT / place
    files = sorted(path.rglob('*.py')) if path.is_dir() else [path]
    assert files and not [function for file in files for function in without_hints(file)]


def test_the_readme_can_be_read_at_one_sitting():
    text = (ROOT / 'README.md').read_text(encoding='utf-8')
    assert len(text.split()) <= 1800
    assert not [line for line in text.splitlines() if len(line) > 120]


@pytest.mark.parametrize('page', PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files_that_exist(page):
    targets = [target.partition('#')[0] for target in LINK.findall(page.read_text(encoding='utf-8'))]
    local = [target for target in targets if target and '://' not in target and not target.startswith('mailto:')]
    found = [(page.parent / target).resolve() for target in local]
    assert not [path for path in found if not path.exists() and path not in NOT_YET]


def test_every_key_of_the_training_configs_is_explained():
    text = (ROOT / 'configs/README.md').read_text(encoding='utf-8')
    keys = re.findall(r'^(\w+):', (ROOT / 'configs/train/base.yaml').read_text(encoding='utf-8'), re.MULTILINE)
    assert keys and not [key for key in keys if f'`{key}`' not in text]


def test_every_script_is_explained():
    text = (ROOT / 'scripts/README.md').read_text(encoding='utf-8')
    scripts = [path.name for path in (ROOT / 'scripts').iterdir() if path.suffix in ('.py', '.sh')]
    assert scripts and not [name for name in scripts if name not in text]
