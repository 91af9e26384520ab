"""MSSA's attention weights, as the model hands them out, against the golden values."""
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import models

GOLDEN = Path(__file__).resolve().parent / 'golden'


@pytest.mark.parametrize('stage', ['stage1', 'stage2'])
def test_weights_are_the_golden_ones(stage, tmp_path):
    spec = json.loads((GOLDEN / 'msit_configs.json').read_text())[stage]
    torch.save({'model': {**spec, 'sd': load_file(GOLDEN / f'msit_{stage}_weights.safetensors')}}, tmp_path / 'model.pth')
    model = models.load(tmp_path / 'model.pth', torch.float64)
    golden = load_file(GOLDEN / f'msit_{stage}_tensors.safetensors')
    lr = golden['input'] * 0.5 + 0.5                                                # golden in the network's [-1, 1]
    weights = model.attention(model.encode(lr), golden['query_coord'])
    expected = golden['query_attention'].flatten(1, 2).transpose(1, 2)              # (Q, heads, K)
    assert weights.shape == (1, *expected.shape)
    assert (weights[0] - expected).abs().max() < 1e-9
    assert (weights.sum(-1) - 1).abs().max() < 1e-9
