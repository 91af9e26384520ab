"""A run's page, the checkpoints that are kept, and Weights & Biases."""

import base64
import io
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import refused
from PIL import Image

from models.training import run
from models.training.records import prune
from utils import UserError


@pytest.fixture
def train(program, config, tmp_path):
    """`train(**changes)` trains the run `run` by the config with these changes."""

    def begun(*options, **changes):
        (tmp_path / 'run.yaml').write_text(yaml.safe_dump({**config, **changes}))
        return program('train.py', '-config', 'run.yaml', '-device', 'cpu', *options)

    return begun


def pictures(page):
    found = re.findall(r'<h2>([^<]*)</h2><p>[^<]*</p><img src="data:image/png;base64,([^"]*)">', page)
    return {name: Image.open(io.BytesIO(base64.b64decode(data))) for name, data in found}


def test_the_page_of_a_run_tells_all_of_it_in_one_file(train, program, config):
    assert train()[0] == 0
    folder = Path('save/run')
    page = (folder / 'report.html').read_text()
    assert '<h1>run</h1>' in page and page.count('<svg') == 1
    assert 'http' not in re.sub('<svg.*?</svg>', '', page, flags=re.DOTALL)
    shown = pictures(page)
    assert list(shown) == ['stage1 x2', 'stage2 x2']
    for name, picture in shown.items():
        assert np.array_equal(picture, Image.open(folder / 'strips' / f'{name}.png'))
        assert picture.width == 4 * (picture.width // 4) and len(np.unique(picture)) > 9
    assert yaml.safe_load(re.search('<pre>(.*)</pre>', page, re.DOTALL)[1])['stages'].keys() == config['stages'].keys()
    (folder / 'report.html').unlink()
    status, out, _ = program('scripts/summary.py', 'save/run', '-pages')
    assert status == 0 and (folder / 'report.html').read_text().count('<img') == 2
    psnr = out.splitlines()[2].split('|')[2].strip()
    assert f'<td>{psnr}</td>' in page


def test_names_are_no_markup(train):
    assert train('-name', '<b>')[0] == 0
    assert '<h1>&lt;b&gt;</h1>' in Path('save/<b>/report.html').read_text()


def test_a_run_without_validations_has_a_page(train, config):
    assert train(validation={**config['validation'], 'scales': []})[0] == 0
    page = Path('save/run/report.html').read_text()
    assert '<svg' in page and not pictures(page)


def test_old_checkpoints_are_removed(train):
    assert train(save_every=2, keep=2)[0] == 0
    names = sorted(path.name for path in Path('save/run').glob('*.pth'))
    assert names == ['best.pth', 'last.pth', 'stage1.pth', 'stage2-4.pth', 'stage2-6.pth', 'stage2.pth']


def test_the_last_ones_are_kept_and_no_result_is_removed(tmp_path):
    steps = [f'{stage}-{step}' for stage in ('b', 'a-1') for step in (5, 10, 100)]
    others = ['last', 'best', 'b', 'a-1', 'c-7', 'b-x', '.b-3.partial']  # a-1 is the result of a stage
    for name in (*steps, *others):
        (tmp_path / f'{name}.pth').touch()
    prune(tmp_path, ['b', 'a-1', 'a'], 4)
    left = {path.stem for path in tmp_path.iterdir()}
    assert left == {*others, 'b-100', 'a-1-5', 'a-1-10', 'a-1-100'}


def test_a_page_that_cannot_be_written_does_not_stop_the_run(train, monkeypatch):
    def fail(folder):
        raise UserError('line 3 is no JSON')

    monkeypatch.setattr(run, 'write_page', fail)
    status, out, _ = train()
    assert status == 0 and out.count('note: the page of the run cannot be written: line 3 is no JSON') == 2
    assert Path('save/run/stage2.pth').is_file() and not Path('save/run/report.html').exists()


@pytest.mark.parametrize(
    'setting, said',
    [
        ('keep=0', 'keep is a whole number from 1 up or null, not 0'),
        ('wandb=3', 'wandb is the name of a project or null, not 3'),
        ('wandb=mine', 'wandb needs a package that is not installed: pip install wandb'),
    ],
)
def test_a_run_refuses_in_one_line(train, monkeypatch, setting, said):
    monkeypatch.setitem(sys.modules, 'wandb', None)
    refused(train('-set', setting), said)
    assert not Path('save').exists()


class Wandb(types.ModuleType):
    """A stand-in for the package."""

    class Error(Exception):
        pass

    def __init__(self, fails=False):
        super().__init__('wandb')
        self.__spec__ = types.SimpleNamespace()
        self.runs, self.finished, self.fails = [], 0, fails

    def init(self, **told):
        if self.fails:
            raise self.Error('no API key')
        self.runs.append(told)
        return self

    def finish(self):
        self.finished += 1


def test_weights_and_biases_is_told_of_the_run(train, monkeypatch, config):
    wandb = Wandb()
    monkeypatch.setitem(sys.modules, 'wandb', wandb)
    assert train('-time-limit', '0', wandb='mine')[0] == 0 and train('-resume', wandb='mine')[0] == 0
    first, second = wandb.runs
    assert first == second and wandb.finished == 2  # the same run goes on
    assert first['project'] == 'mine' and first['name'] == 'run' and first['sync_tensorboard'] is True
    assert first['config']['batch_size'] == config['batch_size']
    assert train('-name', 'other', wandb='mine')[0] == 0 and wandb.runs[2]['id'] != first['id']


def test_weights_and_biases_that_cannot_be_told(train, monkeypatch):
    monkeypatch.setitem(sys.modules, 'wandb', Wandb(fails=True))
    refused(train(wandb='mine'), 'wandb: the run cannot be told (no API key)')
