"""scripts/encoders.py: all of its three ways encode the same. No test depends on a time."""

import runpy
from unittest import mock

import pytest
import torch
from conftest import ROOT, TINY

import models
from models.layers import convolution
from models.registry import make_encoder

PROGRAM = 'scripts/encoders.py'
pytest.importorskip('onnxruntime')


def test_a_row_for_each_encoder_and_model(program):
    models.save('tiny.pth', models.build(TINY))
    status, out, err = program(PROGRAM, '-features', '5', '16', '-models', 'tiny.pth', '-input', '16x17')
    assert (status, err) == (0, '')
    rows = [[cell.strip() for cell in line.strip('|').split('|')] for line in out.splitlines()[2:]]
    assert [row[0] for row in rows] == ['EDSR, 4 x 5', 'EDSR, 4 x 16', 'tiny, all of `encode`']
    assert all(float(cell) >= 0 for row in rows for cell in row[1:])


def test_the_three_ways_encode_the_same():
    script = runpy.run_path(str(ROOT / PROGRAM))
    encoder, lr = make_encoder({'name': 'edsr', 'args': {'n_resblocks': 1, 'n_feats': 16}}), torch.rand(1, 3, 20, 17)
    with torch.no_grad(), mock.patch.object(convolution.winograd, 'winograd_conv2d') as ours:
        expected = script['in_torch'](lambda: encoder(lr))
    assert not ours.called
    runtime = script['session'](script['encode_proto'](script['Encode'](encoder)).SerializeToString())
    (got,) = runtime.run(None, {'lr': lr.numpy()})
    with torch.no_grad():
        assert (encoder(lr) - expected).abs().max() <= 1e-5
    assert (torch.from_numpy(got).permute(2, 0, 1)[None] - expected).abs().max() <= 1e-5
