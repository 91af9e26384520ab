"""What programs do on a device, seen on one that is not there (tests/claimed.py): nothing is left on the CPU, training
steps never wait, and where there is no float64 none is used."""

import contextlib
import re
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from claimed import There, claimed
from conftest import ROOT, TINY
from examples import BICUBIC, DECODERS, ENCODERS, spec_of
from PIL import Image

import models
from datasets.batches import Batch
from models.device import choose_device, described, set_tf32
from models.evaluation.loop import evaluate
from models.rendering import grid
from models.training import parallel
from models.training.config import read_training_config
from models.training.objective import layout
from models.training.run import READ_EVERY, Run
from utils import UserError

MODELS = {
    **{name: spec_of(name) for name in DECODERS},
    **{f'liif {name}': spec_of('liif', name) for name in ENCODERS if name != 'edsr-baseline'},
    'rim': {**TINY, 'args': {**TINY['args'], 'rim': True}},
    'circular': {**TINY, 'args': {**TINY['args'], 'fem': 'circular'}},
    'bicubic': BICUBIC,
}


@pytest.fixture
def device():
    with claimed() as there:
        yield there
    layout.cache_clear()


@pytest.fixture(params=[True, False], ids=['float64', 'no float64'])
def any_device(request):
    with claimed(float64=request.param) as there:
        yield there
    layout.cache_clear()


@pytest.fixture
def tf32():
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def allowed():
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


def pair(spec):
    """A model on the CPU, and the same on the device."""
    torch.manual_seed(0)
    model = models.build(spec).eval().requires_grad_(False)
    there = models.build(spec).eval().requires_grad_(False)
    there.load_state_dict(model.state_dict())
    return model, there.to('cuda')


def close(device, there, here):
    assert isinstance(there, There)
    torch.testing.assert_close(there.held, here, rtol=0, atol=1e-5 if device.float64 else 1e-4)


@pytest.mark.parametrize('name', MODELS)
def test_every_model_answers_queries_and_renders_on_the_device(name, any_device):
    model, there = pair(MODELS[name])
    lr = torch.rand(1, 3, 8, 9)
    moved = lr.to('cuda')
    coord, cell = grid.pixel_centres(10, 11), grid.cell_size(10, 11)
    told = grid.pixel_centres(10, 11, moved.device), grid.cell_size(10, 11, moved.device)
    any_device.clear()
    got = there.query(there.encode(moved), told[0][None], told[1])
    if name != 'bicubic':  # which is not trained: how far its kernel reaches depends on the cell
        assert not any_device.waits
    close(any_device, got, model.query(model.encode(lr), coord[None], cell))
    close(any_device, there.render(moved, (20, 21)), model.render(lr, (20, 21)))


@pytest.mark.parametrize('tile', [None, 5])
def test_rendering_waits_once_for_each_tile(tile, device):
    _, there = pair(TINY)
    lr = torch.rand(1, 3, 8, 9, device='cuda')
    device.clear()
    with mock.patch('models.rendering.render.CHUNK', 3000):  # so that a tile is decoded in several chunks
        there.render(lr, (20, 21), tile=tile)
    assert device.waits.total() == 1 + (1 if tile is None else 4)  # once for the input


@pytest.mark.parametrize('name', ['msit', 'bicubic'])
def test_evaluation_on_the_device_gives_the_same_values(name, any_device):
    model, there = pair(MODELS[name])
    torch.manual_seed(1)
    items = [{'name': 'one', 'lr': torch.rand(3, 8, 9), 'hr': torch.rand(3, 16, 18), 'scale': (2.0, 2.0)}]
    here = evaluate(model, items, 'benchmark', progress=False, ensemble=True)
    assert evaluate(there, items, 'benchmark', torch.device('cuda'), progress=False, ensemble=True)['psnr'] == (
        pytest.approx(here['psnr'], abs=1e-4)
    )


def test_a_model_renders_in_exact_float32_whatever_torch_is_set_to(tf32, device):
    _, there = pair(TINY)
    seen = []
    there.msno.register_forward_hook(lambda *_: seen.append(allowed()))
    set_tf32(None)
    there.render(torch.rand(1, 3, 8, 9, device='cuda'), (20, 21))
    assert set(seen) == {(False, False)} and allowed() == (False, True)


def test_attention_on_the_device(any_device):
    from scripts.attention import attention

    model, there = pair(TINY)
    lr = torch.rand(3, 8, 9)
    expected = attention(model, lr, (7, 11), (20, 21))
    close(any_device, attention(there, lr.to('cuda'), (7, 11), (20, 21)), expected)


# ---------------------------------------------------------------- what is found on the device itself


@pytest.mark.parametrize(
    'work, waits',
    [
        (lambda x: x.sum().item(), 1),
        (lambda x: x.cpu(), 1),
        (lambda x: x[x > 0], 1),
        (lambda x: x.nonzero(), 1),
        (lambda x: bool(x.sum() > 0), 1),
        (lambda x: torch.zeros(4).copy_(x), 1),
        (lambda x: x.mul(2).relu().view(2, 2), 0),
        (lambda x: torch.where(x > 0, x, 0), 0),
    ],
)
def test_what_waits_for_the_device_is_seen(work, waits, device):
    x = torch.ones(4, device='cuda')
    device.clear()
    work(x)
    assert device.waits.total() == waits


def test_what_a_device_cannot_do_is_an_error(any_device):
    x = torch.ones(4, device='cuda')
    with pytest.raises(RuntimeError, match='on the CPU'):
        x + torch.ones(4)
    any_device.clear()
    x + torch.tensor(2.0)  # a number, which goes along
    assert any_device.launched.total() == 1 and not any_device.copies
    torch.ones(4).to('cuda')
    assert any_device.copies.total() == 1
    if not any_device.float64:
        with pytest.raises(TypeError, match='float64'):
            x.double()


# ---------------------------------------------------------------- a training step


def begin(config, tmp_path, device):
    run = Run(config, tmp_path, torch.device(device))
    run.begin_stage()
    return run


def steps(run, batches, device=None):
    """Take two steps; what the second one did on the device alone is counted."""
    values = []
    for run.step in range(2):
        if device:
            device.clear()
        values.append(run.train_step(run.next_batches(iter(batches))))
    return values


def weights(model):
    return [getattr(value, 'held', value).detach().clone() for value in model.state_dict().values()]


@pytest.mark.parametrize('draw', ['pixel', 'block'])
@pytest.mark.parametrize('name', [name for name in MODELS if name != 'bicubic'])
def test_a_training_step_waits_for_nothing_and_copies_the_batch_alone(name, draw, any_device, config, tmp_path):
    stage = {**config['stages']['stage1'], 'rim': name == 'rim'}
    config.update(
        model=TINY if name == 'rim' else MODELS[name], draw=draw, stages={'stage1': stage}
    )  # RIM by its stage
    here = begin(config, tmp_path, 'cpu')
    batches = [next(here.batches())]
    there = begin(config, tmp_path, 'cuda')
    values = steps(there, batches, any_device)
    assert not any_device.waits
    of_bias = {cause: n for cause, n in any_device.copies.items() if 'position_bias' in cause}  # made in float64
    assert any_device.copies.total() == 1 + sum(of_bias.values())
    assert not of_bias or not any_device.float64
    found, expected = there.read(values), here.read(steps(here, batches))
    assert any_device.waits.total() == 1
    assert [losses['l1'] for losses in found] == pytest.approx([losses['l1'] for losses in expected], rel=1e-4)
    for a, b in zip(weights(there.model), weights(here.model)):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-3)  # Adam's first steps are as long for any gradient


def test_a_step_of_the_published_size_launches_no_more_than_the_readme_says(device, config, tmp_path):
    published = read_training_config(ROOT / 'configs/train/train_edsr_baseline_MsIT.yaml')
    config.update(model=published['model'], draw='block', batch_size=2, ema_decay=None)
    batches = [next(begin(config, tmp_path, 'cpu').batches())]
    steps(begin(config, tmp_path, 'cuda'), batches, device)
    said = re.search(r'launches (\d+) operations', (ROOT / 'configs/README.md').read_text())
    assert device.launched.total() <= int(said[1])


@pytest.mark.parametrize('precision', ['bf16', 'fp16'])
@pytest.mark.parametrize('draw', ['pixel', 'block'])
def test_a_step_in_half_precision_waits_for_nothing(precision, draw, device, config, tmp_path):
    config.update(draw=draw, precision=precision, accumulate=2)
    run = begin(config, tmp_path, 'cuda')
    batches = run.samples[0]
    parts = [Batch(torch.utils.data.default_collate([batches[n] for n in pair])) for pair in ((0, 1), (2, 3))]
    values = steps(run, parts, device)
    assert not device.waits and None not in run.read(values)


def test_a_step_that_is_not_finite_changes_nothing_on_the_device(device, config, tmp_path):
    config.update(precision='fp16')
    run = begin(config, tmp_path, 'cuda')
    samples = run.samples[0]
    batch = Batch(torch.utils.data.default_collate([samples[n] for n in range(4)]))

    def state():
        moments = [value for of in run.optimizer.state.values() for value in of.values()]
        held = [getattr(value, 'held', value).clone() for value in moments]
        return weights(run.model) + weights(run.ema.module) + held

    def step():
        return run.train_step(run.next_batches(iter([batch])))

    taken = [step()]
    before, scale = state(), float(run.scaler.get_scale())
    broken = run.model.encoder.register_forward_hook(lambda module, args, features: features * float('nan'))
    run.step = 1
    taken.append(step())
    broken.remove()
    assert [found is None for found in run.read(taken)] == [False, True]
    torch.testing.assert_close(state(), before, rtol=0, atol=0)
    assert run.scaler.get_scale() == scale / 2


def test_a_run_on_the_device_reads_its_losses_every_few_steps(device, config, tmp_path):
    every = 2 * READ_EVERY
    config.update(validate_every=100, save_every=100, max_bad_steps=2)
    config['stages'] = {'stage1': {**config['stages']['stage1'], 'steps': every}}
    run, reads, log = begin(config, tmp_path, 'cuda'), [], []
    read = run.read

    def spoil(module, args, features):
        return features * (float('nan') if run.step in (3, 4) else 1)

    run.model.encoder.register_forward_hook(spoil)
    with contextlib.ExitStack() as patches:
        patches.enter_context(mock.patch.object(run, 'read', lambda values: reads.append(len(values)) or read(values)))
        patches.enter_context(mock.patch.object(run, 'validate', return_value=None))
        patches.enter_context(mock.patch.object(run.log, 'add', lambda **entry: log.append(entry)))
        patches.enter_context(mock.patch('models.training.run.Batches', lambda *given: Unpinned(*given[:3])))
        with contextlib.suppress(Stop):
            patches.enter_context(mock.patch.object(run, 'validate_and_keep', side_effect=Stop))
            run.train_stage(None, float('inf'))
    assert [n for n in reads if n] == [READ_EVERY, READ_EVERY] and run.bad == 0
    assert [entry['step'] for entry in log if 'skipped' in entry] == [3, 4]
    (numbers,) = [entry for entry in log if 'loss' in entry]
    assert numbers['step'] == every and 0 < numbers['loss'] < 1


class Stop(Exception):
    """The stage has come to its end."""


class Unpinned:
    """The batches of `datasets.batches.Batches`, in memory that is not pinned."""

    def __init__(self, samples, numbers, workers):
        self.samples, self.numbers = samples, iter(numbers)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def __next__(self):
        return Batch(torch.utils.data.default_collate([self.samples[n] for n in next(self.numbers)]))


# ---------------------------------------------------------------- which device, and how it computes


def test_programs_compute_float32_exactly_and_say_so(tf32):
    set_tf32(None)
    assert allowed() == (False, True)  # torch's defaults
    with claimed():
        told = {setting: set_tf32(setting) or described(torch.device('cuda')) for setting in (None, True)}
        assert 'float32 in convolutions as TF32' in told[None] and 'float32 as TF32' in told[True]
        choose_device('cpu')
        assert 'float32 without TF32' in described(torch.device('cuda'))
        assert allowed() == (False, False) and described(torch.device('cpu')) == 'cpu'


def test_validation_is_exact_whatever_the_training_does(tf32, config, tmp_path):
    run, seen = begin({**config, 'tf32': True}, tmp_path, 'cpu'), []
    assert allowed() == (True, True)
    with mock.patch('models.training.run.evaluate_image', lambda *_: seen.append(allowed()) or ({'psnr': 1}, None)):
        with mock.patch('models.training.run.strip'):
            run.validate(lambda *_: None)
    assert seen == [(False, False)] * 2 and allowed() == (True, True)


@pytest.mark.parametrize('ranks', ['train', 'evaluate'])
def test_a_rank_sets_its_device_before_it_allocates_anything(ranks, tf32, monkeypatch):
    monkeypatch.setenv('LOCAL_RANK', '1')
    monkeypatch.setenv('WORLD_SIZE', '2')
    calls = mock.Mock()
    calls.zeros.return_value.item.return_value = 0
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    monkeypatch.setattr(torch.cuda, 'set_device', calls.set_device)
    monkeypatch.setattr(torch, 'zeros', calls.zeros)
    monkeypatch.setattr(torch.distributed, 'init_process_group', calls.init_process_group)
    own = torch.device('cuda', 1)
    if ranks == 'train':
        assert parallel.join() == own
    else:
        from scripts import evaluate

        monkeypatch.setattr(evaluate, 'labelled', mock.Mock(side_effect=Stop))  # what follows the choice of a device
        monkeypatch.setattr(evaluate, 'check_folder', lambda *_: None)
        with pytest.raises(Stop):
            arguments = {'models': ['bicubic'], 'sets': ['set5'], 'outputs': [], 'references': None, 'metrics': []}
            evaluate.main(
                SimpleNamespace(
                    device=None, scales=['2'], degrade=['clean'], name='', eight_bit=False, ensemble=False, **arguments
                )
            )
    expected = [mock.call.set_device(own), mock.call.zeros(1, device=own), mock.call.zeros().item()]
    assert calls.mock_calls[:3] == expected
    assert [call[0] for call in calls.mock_calls[3:]] == (['init_process_group'] if ranks == 'train' else [])


def test_a_device_that_is_named_is_the_current_one(tf32, monkeypatch):
    """As kernels are launched on that."""
    monkeypatch.setattr(torch.cuda, 'set_device', current := mock.Mock())
    monkeypatch.setattr(torch, 'zeros', mock.Mock())
    assert choose_device('cuda:1') == torch.device('cuda', 1)
    assert current.mock_calls == [mock.call(torch.device('cuda', 1))]


@pytest.mark.parametrize('name, rank', [('cuda:0', '1'), (None, '2')])
def test_a_rank_without_a_device_of_its_own_is_refused(name, rank, tf32, monkeypatch):
    monkeypatch.setenv('LOCAL_RANK', rank)
    monkeypatch.setenv('WORLD_SIZE', '3')
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    monkeypatch.setattr(torch.cuda, 'set_device', mock.Mock())
    monkeypatch.setattr(torch, 'zeros', mock.Mock())
    with pytest.raises(UserError, match='a CUDA device of its own; there are 2 here'):
        parallel.join(name)


# ---------------------------------------------------------------- programs


@pytest.fixture
def of_someone(tmp_path):
    """A small model's weights, and a folder with a photo."""
    torch.manual_seed(0)
    models.save(tmp_path / 'tiny.pth', models.build(TINY))
    picture = Image.fromarray((255 * np.random.default_rng(0).random((24, 30, 3))).astype(np.uint8))
    (tmp_path / 'photos').mkdir()
    picture.save(tmp_path / 'photos' / 'photo.png')


@pytest.mark.parametrize(
    'command',
    [
        'demo.py -input photos/photo.png -output out.png -scale 2.5 -model tiny.pth',
        'scripts/benchmark.py -models tiny.pth -inputs 12x14 -scales 2 -repeats 1 -turn 0',
        'scripts/evaluate.py -models tiny.pth bicubic -sets photos -scales 2 3.3',
        'scripts/attention.py -input photos/photo.png -scale 2 -pixel 5,6 -model tiny.pth -output out.png',
    ],
)
def test_programs_work_on_the_device(of_someone, any_device, program, command):
    status, out, err = program(*command.split(), '-device', 'cuda')
    assert status == 0, (out, err)
    assert ('float32 without TF32' in out) == command.startswith(('scripts/benchmark.py', 'scripts/evaluate.py'))
