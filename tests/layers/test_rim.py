"""RIM: its kernel against loops, folding, and the chain of stages of cumulative training."""

import copy

import pytest
import torch
from conftest import TINY
from examples import built, by_query, specs
from hypothesis import given, settings
from hypothesis import strategies as st

import models
from models.layers.rim import RIMConv2d, fold_state, make_conv

RIM = {**TINY, 'args': {**TINY['args'], 'rim': True}}
odd = st.sampled_from([1, 3, 5, 7, 9])


def random_rim(in_channels, out_channels, kernel, seed):
    torch.manual_seed(seed)
    conv = RIMConv2d(in_channels, out_channels, kernel).double()
    torch.nn.init.normal_(conv.gain)
    return conv.requires_grad_(False)


def image(height=6, width=5, batch=1, dtype=torch.float32):
    return torch.rand(batch, 3, height, width, dtype=dtype)


# ---------------------------------------------------------------- one convolution


@given(st.integers(1, 3), st.integers(1, 3), odd, st.integers(0, 99))
def test_kernel_is_what_the_loops_say(in_channels, out_channels, k, seed):
    """`W' = W + (A * W) . (b W)`, slice by slice, row `o * in + i` of A and b for slice `W[o, i]`."""
    conv = random_rim(in_channels, out_channels, k, seed)
    kernel = conv.kernel()
    for o in range(out_channels):
        for i in range(in_channels):
            w, row = conv.weight[o, i].tolist(), o * in_channels + i
            a, b = conv.interaction[row, 0].tolist(), conv.gain[row].item()
            for y in range(k):
                for x in range(k):
                    near = sum(
                        a[1 + dy][1 + dx] * w[y + dy][x + dx]
                        for dy in (-1, 0, 1)
                        for dx in (-1, 0, 1)
                        if 0 <= y + dy < k and 0 <= x + dx < k
                    )
                    assert abs(kernel[o, i, y, x].item() - (w[y][x] + near * b * w[y][x])) <= 1e-12


@settings(max_examples=50)
@given(st.integers(1, 4), st.integers(1, 4), odd, st.integers(1, 8), st.integers(1, 8), st.integers(0, 99))
def test_folded_convolution_computes_the_same(in_channels, out_channels, k, height, width, seed):
    conv = random_rim(in_channels, out_channels, k, seed)
    plain = torch.nn.Sequential(make_conv(in_channels, out_channels, k, rim=False)).double()
    plain.load_state_dict(fold_state(torch.nn.Sequential(conv)))
    x = torch.randn(2, in_channels, height, width, dtype=torch.float64)
    assert conv(x).shape == (2, out_channels, height, width)
    assert (conv(x) - plain(x)).abs().max() <= 1e-12


def test_kernel_is_frozen_and_its_interaction_is_trained():
    conv = RIMConv2d(2, 3, 5)
    assert {name for name, _ in conv.named_parameters()} == {'interaction', 'gain', 'bias'}
    assert conv.interaction.shape == (6, 1, 3, 3) and conv.gain.shape == (6, 1, 1, 1)
    assert torch.equal(conv.kernel(), conv.weight)  # the start: W' = W
    before = {name: value.clone() for name, value in conv.state_dict().items()}
    optimizer = torch.optim.SGD(conv.parameters(), lr=0.1)
    for _ in range(2):  # at gain 0 nothing depends on the interaction; the first step changes that
        optimizer.zero_grad()
        conv(torch.randn(1, 2, 7, 7)).square().sum().backward()
        optimizer.step()
    assert not conv.weight.requires_grad
    changed = {name: not torch.equal(value, before[name]) for name, value in conv.state_dict().items()}
    assert changed == {'weight': False, 'bias': True, 'interaction': True, 'gain': True}


# ---------------------------------------------------------------- a model


@pytest.fixture(scope='module')
def trained():
    """A stage-1 model in float32, with random statistics of batch norm, which is neutral when new."""
    return built(TINY, seed=4, dtype=torch.float32)


def rims(model):
    return [name for name, part in model.named_modules() if isinstance(part, RIMConv2d)]


def test_where_rim_is(trained):
    kernels = {
        **{f'msno.msc.convs.{i}': 8 // 2 for i in range(2)},
        **{f'mssa.msc.convs.{i}': 8 // 2 for i in range(2)},
        'mssa.value': 8,
    }
    staged = models.next_stage(trained)
    assert rims(trained) == [] and set(rims(staged)) == set(kernels)
    for name, channels in kernels.items():
        part = staged.get_submodule(name)
        assert part.weight.shape[:2] == (channels, channels) and 'weight' not in dict(part.named_parameters())


@pytest.mark.parametrize('training', [False, True])
def test_a_stage_begins_with_what_the_last_one_computes(trained, training):
    """Bit for bit: by `query`, also in training mode, and by `render`."""
    model = copy.deepcopy(trained).train(training)
    staged = models.next_stage(copy.deepcopy(model))
    assert staged.training == training and staged.spec == RIM
    lr = image(9, 7, batch=2)
    assert torch.equal(by_query(model, lr, (13, 17), torch.float32), by_query(staged, lr, (13, 17), torch.float32))
    assert torch.equal(model.eval().render(lr, (13, 17)), staged.eval().render(lr, (13, 17)))


@given(specs(), st.integers(0, 99), st.booleans())
@settings(max_examples=15)
def test_folded_model_computes_the_same(spec, seed, training):
    spec['args']['rim'] = True
    model = built(spec, seed).train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    folded = models.fold(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert folded.training == training and rims(folded) == [] and not folded.spec['args']['rim']
    lr = image(dtype=torch.float64)
    assert (by_query(folded, lr, (11, 9)) - by_query(model, lr, (11, 9))).abs().max() <= 1e-12


def test_stages_go_on(trained):
    """Fold, add a fresh RIM, change its weights, and again: each stage starts where the last one ended."""
    model = copy.deepcopy(trained).double()
    lr = image(dtype=torch.float64)
    for stage in range(3):
        staged = models.next_stage(model)
        expected = by_query(model, lr, (9, 11))
        assert (by_query(staged, lr, (9, 11)) - expected).abs().max() <= 1e-12
        folded = models.fold(staged)
        assert all(torch.equal(value, staged.state_dict()[name]) for name, value in folded.state_dict().items())
        for part in map(staged.get_submodule, rims(staged)):
            torch.nn.init.normal_(part.gain.data, std=0.5)
        assert (by_query(staged, lr, (9, 11)) - expected).abs().max() > 1e-6
        model = staged


def test_stages_share_no_weights(trained):
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    staged = models.next_stage(trained)
    for value in staged.state_dict().values():
        value.zero_()
    assert all(torch.equal(value, before[name]) for name, value in trained.state_dict().items())


def test_a_model_without_rim_is_folded_already(trained):
    assert models.fold(trained) is trained


def test_meta_goes_with_the_stages(trained):
    model = copy.deepcopy(trained)
    model.meta = {'data': 'photos', 'steps': 7}
    assert models.next_stage(model).meta == models.fold(models.next_stage(model)).meta == model.meta


def test_the_loss_reaches_interaction_and_gain_but_not_the_kernel():
    model = built(RIM, dtype=torch.float32)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    by_query(model, image(), (8, 8), torch.float32).square().sum().backward()
    for part in map(model.get_submodule, rims(model)):
        assert part.interaction.grad.abs().sum() > 0 and part.gain.grad.abs().sum() > 0
        assert part.bias.grad is not None and not part.weight.requires_grad and part.weight.grad is None
