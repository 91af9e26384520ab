"""The examples of models/README.md, as they stand there."""

import json
import re
import textwrap
from pathlib import Path

import pytest
import test_models
import torch
import yaml
from conftest import ROOT
from examples import DECODERS, ENCODERS, by_query, spec_of
from torch import nn

import models
from models.registry import models as registry
from models.rendering import strips

TEXT = (ROOT / 'models' / 'README.md').read_text(encoding='utf-8')
ENCODER = {'name': 'my-encoder', 'args': {'width': 5}}
IMNET = {'name': 'mlp', 'args': {'out_dim': 3, 'hidden_list': [6, 5]}}


def blocks(language):
    return re.findall(rf'^```{language}\n(.*?)^```', TEXT, flags=re.MULTILINE | re.DOTALL)


def steps(language):
    """The blocks within the numbered steps."""
    found = re.findall(rf'^   ```{language}\n(.*?)^   ```', TEXT, flags=re.MULTILINE | re.DOTALL)
    return list(map(textwrap.dedent, found))


@pytest.fixture(autouse=True)
def registered():
    """The registry with what the examples register, for one test."""
    before = dict(registry.entries)
    names = {}
    for block in blocks('python'):
        exec(block, names)
    yield names
    registry.entries.clear()
    registry.entries.update(before)


def built(name):
    torch.manual_seed(0)
    model = models.build({'name': name, 'args': {'encoder_spec': ENCODER, 'imnet_spec': IMNET}})
    return model.eval().requires_grad_(False).double()


@pytest.mark.parametrize('name', ['nearest-mlp', 'nearest-mlp-fast'])
def test_the_decoders_render_what_they_say_at_every_pixel(name):
    model, lr = built(name), torch.rand(2, 3, 7, 9, dtype=torch.float64)
    for size in (14, 27), (7, 9), (16, 40), (5, 3):
        expected = by_query(model, lr, size)
        assert (model.render(lr, size) - expected).abs().max() <= 1e-12
        assert (model.render(lr, size, tile=3) - expected).abs().max() <= 1e-12
    assert (model.render(lr, (20, 30)) - built('nearest-mlp').render(lr, (20, 30))).abs().max() <= 1e-12


def test_the_chain_is_the_encoder_in_strips(registered):
    model, lr = built('nearest-mlp'), torch.rand(2, 3, 70, 9, dtype=torch.float64)
    model.encoder = registered['MyChain'](model.encoder.out_dim).eval().requires_grad_(False).double()
    stages, image = model.stages(), torch.rand(1, 3, 70, 9, dtype=torch.float64)
    assert sum(stage.margin for stage in stages) == model.encoder.receptive_field
    maps = strips.encode(stages, iter(image.split(8, dim=2)), 70, 8)
    assert (torch.cat(list(maps), dim=2) - model.encoder(image)).abs().max() <= 1e-12
    assert (model.render(lr, (90, 27), tile=9) - by_query(model, lr, (90, 27))).abs().max() <= 1e-12


@pytest.mark.parametrize('encoder', ['my-encoder', 'edsr-baseline'])
def test_the_encoder_goes_with_every_decoder(encoder):
    args = {'width': 8} if encoder == 'my-encoder' else {'n_resblocks': 1, 'n_feats': 8}
    for name, more in ('msit', {'channels': 8, 'heads': 2, 'msno_kernels': [3, 5]}), ('liif', {}), ('lte', {}):
        more = more | {'encoder_spec': {'name': encoder, 'args': args}, 'imnet_spec': IMNET}
        model = models.build({'name': name, 'args': more}).eval()
        assert model.render(torch.rand(1, 3, 9, 8), (13, 20)).shape == (1, 3, 13, 20)
        assert model.floats_per_pixel >= 8


@pytest.mark.parametrize('draw', ['block', 'pixel'])
def test_the_config_trains(program, config, tmp_path, draw):
    partial, whole = map(yaml.safe_load, blocks('yaml'))
    assert partial['model']['args']['encoder_spec']['name'] == 'my-encoder'
    run = {**config, 'model': whole['model'], 'stages': {'stage1': config['stages']['stage1']}, 'draw': draw}
    (tmp_path / 'run.yaml').write_text(yaml.safe_dump(run))
    status, out, err = program('train.py', '-config', 'run.yaml', '-name', 'run', '-device', 'cpu')
    assert status == 0, err
    trained = models.load(tmp_path / 'save/run/stage1.pth')
    assert all(isinstance(p, nn.Parameter) for p in trained.parameters()) and trained.meta['step'] == 6


@pytest.mark.parametrize('encoder', ENCODERS)
def test_the_decoder_enters_the_tests_of_the_registry(encoder, monkeypatch):
    monkeypatch.setattr(test_models, 'PARTS', {*test_models.PARTS, 'my-encoder', 'nearest-mlp-fast'})
    with pytest.raises(AssertionError):  # it is registered, and not tried
        test_models.test_every_registered_model_is_tested_here()
    (block,) = steps('python')
    try:
        exec(block, {})
        test_models.test_every_registered_model_is_tested_here()
        spec = spec_of('nearest-mlp', encoder)
        test_models.test_every_parameter_gets_a_gradient(spec)
        test_models.test_tiles_are_the_whole(spec)
    finally:
        DECODERS.pop('nearest-mlp', None)


def test_from_nothing_to_a_row_in_the_table(program, photos, tmp_path):
    """The commands as they stand there, on small photos and in few steps."""
    (tmp_path / 'data').mkdir()
    photos.rename(tmp_path / 'data/train')
    (tmp_path / 'data/valid').mkdir()
    (tmp_path / 'data/train/photo0.png').rename(tmp_path / 'data/valid/photo.png')
    (config,) = steps('yaml')
    (tmp_path / 'nearest_mlp.yaml').write_text(config.replace('configs/train', str(ROOT / 'configs/train')))
    smaller = {
        'train.py': ['-set', 'patch=10', 'queries=64', 'batch_size=2', 'workers=0', 'stages.stage1.steps=3'],
        'scripts/evaluate.py': [],
        'scripts/benchmark.py': ['-inputs', '5x6'],
    }
    said = {}
    for line in ''.join(steps('sh')).splitlines():
        python, name, *options = line.split()
        assert python == 'python'
        status, said[name], err = program(name, *options, '-device', 'cpu', *smaller[name])
        assert status == 0, err
    assert said.keys() == smaller.keys() and Path('save/nearest-mlp/report.html').is_file()
    rows = json.loads(Path('save/evaluation/table.json').read_text())
    assert [(row['model'], row['scale']) for row in rows[::2]] == [('stage1', f'x{s}') for s in (2, 3, 4)]
    assert '| stage1 (' in said['scripts/evaluate.py'] and '| nearest-mlp | 0.0' in said['scripts/benchmark.py']
