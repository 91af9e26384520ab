"""Every number of the method against values computed independently, in float64."""

import json

import pytest
import torch
from conftest import ROOT
from examples import close
from safetensors.torch import load_file

import models
from models.rendering import grid
from models.weights.files import fitted
from models.weights.published import from_published

GOLDEN = ROOT / 'tests' / 'golden'


@pytest.fixture(params=['stage1', 'stage2', 'stage2 folded'], scope='module')
def golden(request, tmp_path_factory):
    """`(model, tensors)`: the golden weights under their published names, loaded in float64, RIM folded or not."""
    stage = request.param.split()[0]
    published = json.loads((GOLDEN / 'msit_configs.json').read_text())[stage]
    weights = load_file(GOLDEN / f'msit_{stage}_weights.safetensors')
    if request.param == 'stage2':  # `models.load` folds; here RIM itself computes
        model = fitted(*from_published(published['name'], published['args'], weights), torch.float64).eval()
        assert any(name.endswith('gain') for name in model.state_dict())
        model.requires_grad_(False)
    else:
        path = tmp_path_factory.mktemp('golden') / 'published.pth'
        torch.save({'model': {**published, 'sd': weights}}, path)
        model = models.load(path, torch.float64)
        assert not any(name.endswith('gain') for name in model.state_dict())
    return model, load_file(GOLDEN / f'msit_{stage}_tensors.safetensors')


def test_every_map(golden):
    model, expected = golden
    encoded = model.encoder(expected['input'])
    close(encoded, expected['encoder_out'])
    projected = model.project(encoded)
    close(projected, expected['projected'])
    close(model.msno.fem(projected), expected['fem_of_projected'])
    operated = model.msno(projected)
    close(operated, expected['msno_out'])
    for got, name in zip(model.mssa(operated), ('mssa_query_key', 'mssa_value')):
        close(got, expected[name])


def test_features_hold_the_maps(golden):
    model, expected = golden
    features = model.encode((expected['input'] + 1) / 2)
    assert features.size == expected['input'].shape[-2:]
    inner = slice(model.radius, -model.radius)
    for maps, name in ((features.query_key, 'mssa_query_key'), (features.value, 'mssa_value')):
        maps = maps.permute(1, 0, 4, 2, 3).flatten(1, 2)  # (B, C, H + 2 r, W + 2 r)
        close(maps[..., inner, inner], expected[name])
        assert maps.count_nonzero() == maps[..., inner, inner].count_nonzero()  # zeros around


def test_every_output_by_render_and_by_query(golden):
    model, expected = golden
    lr = (expected['input'] + 1) / 2
    outputs = [name for name in expected if name.startswith('output_')]
    assert len(outputs) == 6
    for name in outputs:
        size = tuple(map(int, name.removeprefix('output_').split('x')))
        close(model.render(lr, size) * 2 - 1, expected[name])
        rgb = model.query(model.encode(lr), grid.pixel_centres(*size)[None], grid.cell_size(*size))
        close(rgb.transpose(1, 2).reshape(1, 3, *size) * 2 - 1, expected[name])


def test_points(golden):
    model, expected = golden
    features = model.encode((expected['input'] + 1) / 2)
    coord, cell = expected['query_coord'], expected['query_cell']
    for form in (cell[0], cell, cell[:, None].expand(coord.shape)):
        close(model.query(features, coord, form) * 2 - 1, expected['query_rgb'])


def test_attention(golden):
    model, expected = golden
    features = model.encode((expected['input'] + 1) / 2)
    attention = model.attention(features, expected['query_coord'])  # (1, Q, heads, K)
    close(attention[0].transpose(1, 2).reshape(expected['query_attention'].shape), expected['query_attention'])
