"""A training step: its gradient, which steps are skipped, and that accumulation and compilation change nothing."""

import copy
import functools
import math

import pytest
import torch
from conftest import TINY

import models
from models.rendering import grid
from models.training import parallel
from models.training.objective import Objective
from models.training.run import Run
from utils import UserError


@pytest.fixture
def begin(tmp_path):
    """`begin(config)`: a run at the first step of its first stage, and its batches."""

    def begun(config):
        run = Run(config, tmp_path, torch.device('cpu'))
        run.begin_stage()
        return run, run.batches()

    return begun


@pytest.mark.parametrize('loss', ['l1', 'rmse'])
def test_the_stage_says_which_loss_is_minimised(begin, config, loss):
    config['stages']['stage1']['loss'] = loss
    run, batches = begin(config)
    batch = next(batches).to('cpu')
    colour, target = run.objective.predict(batch)
    expected = []
    for patch in zip(colour.flatten(1).tolist(), target.flatten(1).tolist()):
        differences = [abs(ours - theirs) for ours, theirs in zip(*patch)]
        if loss == 'l1':
            expected.append(sum(differences) / len(differences))
        else:
            expected.append(math.sqrt(sum(d**2 for d in differences) / len(differences)))
    (value,) = run.objective(batch).values()
    assert float(value.detach()) == pytest.approx(sum(expected) / len(expected), rel=1e-5)


def test_both_draws_give_the_gradient_of_the_same_pixels():
    torch.manual_seed(0)
    model = models.build(TINY).double()
    lr, hr = (torch.randint(0, 256, (2, 3, n, n), dtype=torch.uint8) for n in (8, 20))
    gradients = []
    for draw, count in (('pixel', 400), ('block', 64)):
        batch = {'lr': lr, 'hr': hr, 'index': torch.arange(count).expand(2, -1)}
        colour, target = Objective(model, draw).predict(batch)
        if draw == 'block':  # x2.5: blocks of two pixels are filled up with their last one
            rows = grid.Blocks(8, 20).output
            fresh = torch.cat([torch.ones(8, 1, dtype=torch.bool), rows.diff(dim=1) > 0], dim=1)
            keep = (fresh[:, None, :, None] & fresh[None, :, None, :]).reshape(1, 64, -1, 1)
            loss = ((colour - target).abs() * keep).sum() / (2 * 400 * 3)
        else:
            loss = (colour - target).abs().mean()
        model.zero_grad()
        loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert (gradients[0] - gradients[1]).norm() <= 1e-6 * gradients[0].norm()


@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
def test_a_step_that_is_not_finite_changes_nothing(begin, config, bad):
    def state():
        return copy.deepcopy([run.model.state_dict(), run.ema.module.state_dict(), run.optimizer.state_dict()['state']])

    run, batches = begin(config)
    run.train_step(run.next_batches(batches))
    before = state()
    broken = run.model.encoder.register_forward_hook(lambda module, args, features: features * bad)
    run.step = 1
    assert run.read([run.train_step(run.next_batches(batches))]) == [None]
    broken.remove()
    torch.testing.assert_close(state(), before, rtol=0, atol=0)
    (found,) = run.read([run.train_step(run.next_batches(batches))])
    assert found['l1'] > 0


def test_too_many_bad_steps_stop_the_run_and_leave_the_batch(begin, config, tmp_path):
    run, _ = begin({**config, 'max_bad_steps': 2})

    def spoil(module, args, features):
        return features * (float('nan') if run.step in (1, 3, 4, 5) else 1)

    run.model.encoder.register_forward_hook(spoil)
    with pytest.raises(UserError, match=r"stage 'stage1', step 5: .* not finite, 3 times in a row; .*bad-batch.pth"):
        run.train_stage(None, float('inf'))
    content = torch.load(tmp_path / 'bad-batch.pth', weights_only=True)
    assert content['stage'] == 'stage1' and content['step'] == 5
    expected = [run.samples[0][n] for n in range(20, 24)]
    for key, values in content['batch'].items():
        assert torch.equal(values, torch.stack([sample[key] for sample in expected])), key


def test_a_random_layer_sees_the_same_numbers_after_resuming(begin, config, tmp_path):
    def noisy(run):
        run.model.encoder.register_forward_hook(lambda module, args, features: features + torch.rand_like(features))
        return run

    whole, batches = begin(config)
    noisy(whole)
    for whole.step in range(3):
        whole.train_step(whole.next_batches(batches))
        if whole.step == 0:
            whole.step = 1
            whole.save_checkpoint()
    resumed = Run(config, tmp_path, torch.device('cpu'))
    resumed.resume()
    noisy(resumed)
    batches = resumed.batches()
    for resumed.step in (1, 2):
        resumed.train_step(resumed.next_batches(batches))
    torch.testing.assert_close(resumed.model.state_dict(), whole.model.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize('draw, parts', [('pixel', 5), ('block', 4)])
def test_what_is_compiled_has_the_same_sizes_at_every_scale(begin, config, monkeypatch, draw, parts):
    """So that a CUDA graph of each part is enough."""
    graphs, sizes = [], set()

    def kept(graph, _, **options):
        graphs.append(options)
        return graph.forward

    monkeypatch.setattr(torch, 'compile', functools.partial(torch.compile, backend=kept))
    config['stages']['stage1'].update(scales=[1, 3.3], steps=8)
    run, batches = begin({**config, 'draw': draw, 'compile': 'reduce-overhead'})
    for run.step in range(8):
        batch = run.next_batches(batches)
        sizes.add(batch[0]['hr'].shape[-1])
        run.train_step(batch)
    assert len(sizes) > 3 and all(options == {'mode': 'reduce-overhead'} for options in graphs)
    assert parts - 1 <= len(graphs) <= parts  # older versions of torch run a single convolution as it is


def test_graphs_are_for_one_device(config, tmp_path, monkeypatch):
    monkeypatch.setattr(parallel, 'ranks', lambda: 2)
    with pytest.raises(UserError, match='reduce-overhead is for one device, not for 2'):
        Run({**config, 'compile': 'reduce-overhead'}, tmp_path, torch.device('cpu'))


def test_compiling_changes_neither_the_step_nor_the_names(begin, config, monkeypatch):
    monkeypatch.setattr(torch, 'compile', functools.partial(torch.compile, backend='eager'))  # no code is generated
    losses = []
    for compiled in (False, True):
        run, batches = begin({**config, 'compile': compiled})
        losses.append(
            [found['l1'] for found in run.read([run.train_step(run.next_batches(batches)) for _ in range(3)])]
        )
        assert run.model.state_dict().keys() == models.build(TINY).state_dict().keys()
        assert run.validate(lambda *_: None)['x2'] > 0
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
