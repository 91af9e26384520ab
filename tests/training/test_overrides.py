"""Settings of the command line over a config: what they change, and what is no setting of it."""

import copy

import pytest
import yaml
from conftest import refused
from hypothesis import given
from hypothesis import strategies as st

from models.training.config import read_training_config
from models.training.overrides import overridden
from utils import UserError

CONFIG = {
    'model': {'name': 'liif', 'args': {'encoder_spec': {'name': 'edsr', 'args': {'n_feats': 8}}, 'depth': 3}},
    'batch_size': 4,
    'clip_grad': None,
    'optimizer': None,
    'stages': {'stage1': {'lr': 1e-4, 'steps': 6}},
}
SCHEMA = {
    **dict.fromkeys(CONFIG),
    'model': {'name': None, 'args': None},
    'optimizer': {'name': None, 'lr': None},
    'seed': None,
}


def changed(*settings):
    before = copy.deepcopy(CONFIG)
    after = overridden(CONFIG, settings, SCHEMA)
    assert before == CONFIG  # the caller's is left as it is
    return after


def test_values_are_yaml():
    after = changed('batch_size=16', 'stages.stage1.lr=2e-4', 'clip_grad=null', 'seed=-1')
    assert (after['batch_size'], after['clip_grad'], after['seed']) == (16, None, -1)
    assert after['stages'] == {'stage1': {'lr': 2e-4, 'steps': 6}}
    assert changed('stages.stage1.loss={l1: 1, fft: 0.05}')['stages']['stage1']['loss'] == {'l1': 1, 'fft': 0.05}
    assert changed('model.args.sizes=[1, 2.5, true, x]')['model']['args']['sizes'] == [1, 2.5, True, 'x']


def test_keys_below_what_is_absent_are_made():
    after = changed('optimizer.lr.encoder=0.1', 'optimizer.name=lion')
    assert after['optimizer'] == {'lr': {'encoder': 0.1}, 'name': 'lion'}


def test_a_spec_with_another_name_replaces_the_spec():
    assert changed('model={name: lte, args: {}}')['model'] == {'name': 'lte', 'args': {}}
    encoder = changed('model.args.encoder_spec={name: rdn}')['model']['args']['encoder_spec']
    assert encoder == {'name': 'rdn'}
    assert changed('model.args.encoder_spec.args.n_feats=16')['model']['args']['encoder_spec'] == {
        'name': 'edsr',
        'args': {'n_feats': 16},
    }


def test_the_last_setting_counts():
    assert changed('batch_size=16', 'batch_size=8')['batch_size'] == 8


@given(st.dictionaries(st.sampled_from(['batch_size', 'seed', 'clip_grad']), st.integers() | st.floats(-1e9, 1e9)))
def test_numbers_come_through(values):
    after = overridden(CONFIG, [f'{key}={value!r}' for key, value in values.items()], SCHEMA)
    assert all(after[key] == value for key, value in values.items())


@pytest.mark.parametrize(
    'setting, said',
    [
        ('batch_siz=3', "unknown key 'batch_siz', did you mean 'batch_size'"),
        ('stages.stag1.lr=3', "unknown key 'stag1' in 'stages', did you mean 'stage1'"),
        ('stages.stage1.lrr=3', "unknown key 'lrr' in 'stages.stage1', did you mean 'lr'"),
        ('model.arg.depth=3', "unknown key 'arg' in 'model', did you mean 'args'"),
        ('optimizer.nam=lion', "unknown key 'nam' in 'optimizer', did you mean 'name'"),
        ('batch_size.x=3', "'batch_size' is no mapping but 4"),
        ('batch_size', 'takes key=value'),
        ('=3', 'takes key=value'),
        ('stages..lr=3', 'takes key=value'),
        ('seed=[1', 'not valid YAML'),
        ('seed={a: 1, a: 2}', 'not valid YAML'),
    ],
)
def test_what_is_no_setting(setting, said):
    with pytest.raises(UserError, match=said):
        changed(setting)


def test_train_takes_settings(program, config, tmp_path):
    (tmp_path / 'run.yaml').write_text(yaml.safe_dump(config))
    options = ['-set', 'batch_size=2', 'stages.stage1.steps=3', 'stages.stage2=null', '-set', 'seed=5']
    assert program('train.py', '-config', 'run.yaml', '-device', 'cpu', *options)[0] == 0
    kept = read_training_config(tmp_path / 'save/run/config.yaml')
    assert (kept['batch_size'], kept['seed'], list(kept['stages'])) == (2, 5, ['stage1'])
    assert kept['stages']['stage1']['steps'] == 3


def test_train_refuses_settings_in_one_line(program, config, tmp_path):
    (tmp_path / 'run.yaml').write_text(yaml.safe_dump(config))
    for setting, said in (('stages.stage1.lrr=3', "did you mean 'lr'"), ('batch_size=x', "up, not 'x'")):
        refused(program('train.py', '-config', 'run.yaml', '-device', 'cpu', '-set', setting), 'run.yaml', said)
    assert not (tmp_path / 'save').exists()
