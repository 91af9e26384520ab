"""Fixtures and helpers of several test files."""

import os
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
settings.register_profile('untimed', deadline=None)  # a machine may be busy
settings.load_profile('untimed')

# A small model that has every part.
TINY = {
    'name': 'msit',
    'args': {
        'encoder_spec': {'name': 'edsr-baseline', 'args': {'n_resblocks': 1, 'n_feats': 8}},
        'imnet_spec': {'name': 'mlp', 'args': {'out_dim': 3, 'hidden_list': [8, 8], 'act': 'gelu'}},
        'channels': 8,
        'heads': 2,
        'radius': 1,
        'msno_kernels': [3, 5],
        'mssa_kernels': [3, 5],
        'position_bias_spec': {'name': 'sinusoid', 'args': {'features': 8}},
    },
}


@pytest.fixture(autouse=True, scope='session')
def quiet_machine():
    """The machine seems to do nothing else, so that what a busy one makes programs say is not said."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, 'getloadavg', lambda: (0.0, 0.0, 0.0), raising=False)
        yield


@pytest.fixture
def photos(tmp_path):
    """A folder with five small images that have structure, `tmp_path/photos`."""
    folder = tmp_path / 'photos'
    folder.mkdir()
    y, x = np.mgrid[:40, :44]
    for k in range(5):
        waves = [127 + 100 * np.sin((y * (k + 1) + x * (c + 1)) / 9) for c in range(3)]
        Image.fromarray(np.stack(waves, axis=-1).astype(np.uint8)).save(folder / f'photo{k}.png')
    return folder


@pytest.fixture
def config(photos):
    """The config of a training of about a second: two stages of six steps."""
    folder = {'name': 'image-folder', 'args': {'root_path': str(photos), 'cache': 'in_memory'}}
    stage = {'rim': False, 'scales': [1, 2], 'steps': 6, 'lr': 1e-3, 'warmup_steps': 2, 'warmup_lr': 1e-5}
    return {
        'model': TINY,
        'init': None,
        'train_dataset': folder,
        'patch': 12,
        'queries': 32,
        'draw': 'pixel',
        'batch_size': 4,
        'accumulate': 1,
        'workers': 0,
        'seed': 3,
        'stages': {'stage1': stage, 'stage2': {**stage, 'rim': True, 'scales': [1, 3]}},
        'precision': 'fp32',
        'channels_last': False,
        'compile': False,
        'clip_grad': 1.0,
        'ema_decay': 0.9,
        'max_bad_steps': 2,
        'validation': {
            'dataset': {**folder, 'args': {**folder['args'], 'first_k': 2}},
            'protocol': 'benchmark',
            'scales': [2],
        },
        'validate_every': 2,
        'save_every': 4,
    }


@pytest.fixture
def program(tmp_path, monkeypatch, capfd):
    """`program('test.py', *arguments)` runs a program in `tmp_path` and returns its exit status, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(name, *arguments):
        monkeypatch.setattr(sys, 'argv', [str(ROOT / name), *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            runpy.run_path(str(ROOT / name), run_name='__main__')
        return stopped.value.code, *capfd.readouterr()

    return run


def refused(result, *said):
    """Assert that the program ended with status 2 and one line on stderr that contains each of `said`."""
    status, out, err = result
    assert status == 2 and out == '' and err.startswith('error: ') and err.count('\n') == 1, (out, err)
    for words in said:
        assert words in err
