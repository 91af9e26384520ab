"""What holds on a CPU holds on a GPU too; skipped if there is no GPU."""

import contextlib
import copy
import gc
import json
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from unittest import mock

import pytest
import torch
import yaml
from conftest import ROOT, TINY, refused
from examples import DECODERS, ENCODERS, spec_of
from torch import distributed, nn
from torch.nn import functional as F

import models
from models.device import PRECISIONS
from models.native import attention
from models.rendering import grid
from models.training import parallel
from models.training.run import Run

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason='there is no CUDA device')
needs_c = pytest.mark.skipif(
    not (shutil.which('cc') or shutil.which('gcc')) or not Path(sysconfig.get_path('include'), 'Python.h').is_file(),
    reason='Triton needs a C compiler and the headers of Python',
)
PUBLISHED = {
    'name': 'msit',
    'args': {
        'encoder_spec': {'name': 'edsr-baseline', 'args': {}},
        'imnet_spec': {'name': 'mlp', 'args': {'out_dim': 3, 'hidden_list': [256] * 4, 'act': 'gelu'}},
        'position_bias_spec': {'name': 'sinusoid', 'args': {'features': 64}},
    },
}
SPECS = {
    'tiny': TINY,
    'rim': {**TINY, 'args': {**TINY['args'], 'rim': True}},
    'published': PUBLISHED,
    **{name: spec_of(name) for name in DECODERS if name != 'msit'},
    **{f'liif, {name}': spec_of('liif', name) for name in ENCODERS if name != 'edsr-baseline'},
}


@pytest.fixture(autouse=True)
def full_float32():
    """TF32 has 10 bits of mantissa; float32 is compared with float32."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def pair(name):
    """The same model on the CPU and on the GPU."""
    torch.manual_seed(0)
    model = models.build(SPECS[name]).eval().requires_grad_(False)
    return model, copy.deepcopy(model).cuda()


@pytest.mark.parametrize('name', SPECS)
@pytest.mark.parametrize('size', [(48, 60), (77, 101), (13, 190)])
def test_render_is_that_of_the_cpu(name, size):
    model, there = pair(name)
    lr = torch.rand(2, 3, 24, 30)
    expected = model.render(lr, size)
    assert (there.render(lr.cuda(), size).cpu() - expected).abs().max() <= 1e-4
    assert (there.render(lr.cuda(), size, tile=11).cpu() - expected).abs().max() <= 1e-4


@pytest.mark.parametrize('name', SPECS)
def test_query_is_that_of_the_cpu(name):
    model, there = pair(name)
    lr, coord = torch.rand(2, 3, 17, 23), torch.rand(2, 40, 2, dtype=torch.float64) * 2 - 1
    cell = grid.cell_size(40, 50)
    got = there.query(there.encode(lr.cuda()), coord.cuda(), cell.cuda()).cpu()
    assert (got - model.query(model.encode(lr), coord, cell)).abs().max() <= 1e-4


@pytest.mark.parametrize('name', ['tiny', 'published'])
@pytest.mark.parametrize('precision', ['bf16', 'fp16'])
def test_half_precision_is_close(name, precision):
    _, there = pair(name)
    lr = torch.rand(1, 3, 40, 40, device='cuda')
    exact, half = (there.render(lr, (90, 100), precision=p) for p in ('fp32', precision))
    assert -10 * (half.clamp(0, 1) - exact.clamp(0, 1)).square().mean().log10() >= 50


def test_gradients_are_those_of_the_cpu():
    model, there = pair('rim')
    lr, coord = torch.rand(2, 3, 12, 12, dtype=torch.float64), torch.rand(2, 30, 2, dtype=torch.float64) * 2 - 1
    for part in (model, there):
        part.double().train().requires_grad_(True)
        device = next(part.parameters()).device
        rgb = part.query(part.encode(lr.to(device)), coord.to(device), grid.cell_size(24, 24).to(device))
        F.l1_loss(rgb, torch.zeros_like(rgb)).backward()
    for (name, ours), theirs in zip(model.named_parameters(), there.parameters()):
        assert (ours.grad - theirs.grad.cpu()).abs().max() <= 1e-9, name


def test_a_device_that_is_not_there_is_refused(program, photos, tmp_path):
    photo = photos / 'photo0.png'
    refused(program('demo.py', '-input', photo, '-output', tmp_path / 'out.png', '-device', 'cuda:99'), 'cuda:99')


@needs_c
@pytest.mark.skipif(not attention.INSTALLED, reason='Triton is not installed')
@pytest.mark.parametrize('dtype', attention.TOLERANCE)
def test_the_kernel_for_attention_agrees_with_torch(dtype):
    given = (
        torch.randn(shape, device='cuda').to(dtype)
        for shape in ((2, 5, 8), (2, 5, 16), (9, 2, 16), (2, 5, 9), (9, 2, 8))
    )
    attention.attend_and_add(*given)  # shows the error, if there is one, which `agrees` takes for a no
    assert attention.agrees(torch.device('cuda'), dtype)


@needs_c
@pytest.mark.skipif(not attention.INSTALLED, reason='Triton is not installed')
def test_the_first_layer_is_the_same_with_the_kernel(monkeypatch):
    model, there = pair('published')
    lr = torch.rand(2, 3, 12, 14)
    expected = model.render(lr, (40, 45))
    assert attention.agrees(torch.device('cuda', torch.cuda.current_device()), torch.float32)
    kernel = mock.Mock(side_effect=attention.attend_and_add)
    monkeypatch.setattr(attention, 'attend_and_add', kernel)
    monkeypatch.setenv('MSIT_TRITON', '1')
    assert (there.render(lr.cuda(), (40, 45)).cpu() - expected).abs().max() <= 1e-4
    assert kernel.called


# ---------------------------------------------------------------- memory


@pytest.mark.parametrize('name', ['tiny', 'published'])
def test_rendering_takes_no_more_memory_for_a_larger_output(name, monkeypatch):
    monkeypatch.setattr('models.rendering.render.CHUNK', 2e6)  # so that either output takes several chunks
    _, there = pair(name)
    lr, peaks = torch.rand(1, 3, 64, 64, device='cuda'), []
    for scale in (4, 12):
        there.render(lr, (8, 8))  # whatever is made once
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        output = there.render(lr, (64 * scale, 64 * scale))
        peaks.append(torch.cuda.max_memory_allocated() - before - output.nbytes)
        del output
    assert peaks[1] <= 2 * peaks[0] + 8 * 2**20  # chunks are as large as ever; blocks of more pixels fill them better


# ---------------------------------------------------------------- training


@pytest.fixture
def twenty(config):
    """The config of a training of 20 steps."""
    stage = {**config['stages']['stage1'], 'steps': 20}
    config.update(stages={'stage1': stage}, validate_every=20, save_every=100, max_bad_steps=20)
    return config


@pytest.fixture
def train(program, tmp_path):
    """`train(config, name, *options)`: train.py on CUDA. Returns its log and its checkpoint."""

    def run(config, name, *options):
        (tmp_path / 'run.yaml').write_text(yaml.safe_dump(config))
        status, out, err = program('train.py', '-config', 'run.yaml', '-name', name, '-device', 'cuda', *options)
        assert status == 0, (out, err)
        folder = tmp_path / 'save' / name
        log = [json.loads(line) for line in (folder / 'log.jsonl').read_text().splitlines()]
        return log, torch.load(folder / 'last.pth', weights_only=True, map_location='cpu')

    return run


@pytest.mark.parametrize('draw', ['pixel', 'block'])
@pytest.mark.parametrize('precision', PRECISIONS)
def test_twenty_steps(precision, draw, train, twenty):
    log, last = train({**twenty, 'precision': precision, 'draw': draw}, 'run')
    (numbers,) = [entry for entry in log if 'loss' in entry]
    skipped = [entry for entry in log if 'skipped' in entry]
    assert last['step'] == 20 and 0 < numbers['loss'] < 1
    assert len(skipped) <= (5 if precision == 'fp16' else 0)  # while the scale of the gradients is found
    assert [entry['psnr']['mean'] for entry in log if 'psnr' in entry][0] > 5
    assert log[0]['device'].startswith('cuda') and 'float32' in log[0]['device']
    assert all(value.isfinite().all() for value in last['model']['sd'].values())


def test_a_step_in_float32_is_that_of_the_cpu(twenty, tmp_path):
    found = []
    for device in ('cpu', 'cuda'):
        run = Run({**twenty, 'draw': 'block', 'tf32': False}, tmp_path, torch.device(device))
        run.begin_stage()
        with run.batches() as batches:
            values = []
            for run.step in range(3):
                values.append(run.train_step(run.next_batches(batches)))
        found.append([losses['l1'] for losses in run.read(values)])
    assert found[1] == pytest.approx(found[0], rel=1e-3)


@pytest.mark.parametrize('draw', ['pixel', 'block'])
@pytest.mark.parametrize('precision', PRECISIONS)
def test_a_step_does_not_wait_for_the_device(precision, draw, twenty, tmp_path):
    twenty['stages']['stage1']['scales'] = [2, 2]  # where the blocks of a size lie is copied once
    run = Run({**twenty, 'precision': precision, 'draw': draw}, tmp_path, torch.device('cuda'))
    run.begin_stage()
    with run.batches() as batches:
        for run.step in range(4):
            if run.step == 3:  # libraries are loaded
                torch.cuda.set_sync_debug_mode('error')
            try:
                values = run.train_step(run.next_batches(batches))
            finally:
                torch.cuda.set_sync_debug_mode('default')
    assert len(run.read([values])) == 1


def apart(one, other, start):
    """How far two models, as lists of their weights, are from each other, as a share of the way that one has come.

    Sums over pixels that are drawn twice have no fixed order on CUDA. Noise of rounding at every layer leads 0.001 of
    the way apart in 20 steps, an optimizer that has lost its state after the first one 0.15.
    """
    one, other, start = (
        torch.cat([weight.detach().flatten().cpu().double() for weight in model]) for model in (one, other, start)
    )
    return float((one - other).norm() / (one - start).norm())


def test_a_run_that_is_resumed_ends_like_one_that_was_not(train, twenty, tmp_path):
    run = Run(twenty, tmp_path / 'fresh', torch.device('cpu'))
    run.begin_stage()
    names = [name for name, _ in run.model.named_parameters()]
    _, whole = train(twenty, 'whole')
    _, first = train(twenty, 'parts', '-time-limit', '0')
    assert first['step'] == 1
    _, resumed = train(twenty, 'parts', '-resume')
    assert resumed['step'] == whole['step'] == 20
    ends = [[last['model']['sd'][name] for name in names] for last in (whole, resumed)]
    assert apart(*ends, list(run.model.parameters())) < 0.02


@contextlib.contextmanager
def nccl(tmp_path):
    """A group of this process alone, in which models are prepared as if there were others."""
    store = distributed.FileStore(str(tmp_path / 'store'), 1)
    distributed.init_process_group('cpu:gloo,cuda:nccl', store=store, rank=0, world_size=1)
    try:
        with mock.patch.object(parallel, 'ranks', return_value=2):
            yield
    finally:
        distributed.destroy_process_group()


def test_ddp_and_synchronised_norm_train_like_one_process(twenty, tmp_path):
    config = {**twenty, 'tf32': False, 'batch_size': 4}
    ends = []
    for grouped in (False, True):
        run = Run(config, tmp_path, torch.device('cuda', 0))
        with nccl(tmp_path) if grouped else contextlib.nullcontext():
            run.begin_stage()
            start = [p.detach().clone() for p in run.model.parameters()]
            with mock.patch.object(parallel, 'ranks', return_value=1), run.batches() as batches:
                for run.step in range(3):
                    run.train_step(run.next_batches(batches))
            assert isinstance(run.objective, nn.parallel.DistributedDataParallel) == grouped
            assert any(isinstance(module, nn.SyncBatchNorm) for module in run.model.modules()) == grouped
            ends.append([p.detach().clone() for p in run.model.parameters()])
            del run
            gc.collect()  # DDP holds the group in cycles
    assert apart(*ends, start) < 0.02


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason='there are no two CUDA devices')
def test_torchrun_on_two_devices(twenty, tmp_path):
    (tmp_path / 'run.yaml').write_text(yaml.safe_dump(twenty))
    torchrun = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2']
    command = [*torchrun, ROOT / 'train.py', '-config', 'run.yaml', '-device', 'cuda']
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0 and done.stdout.count('finished: save/run') == 1, done.stderr


@needs_c
@pytest.mark.parametrize('draw', ['pixel', 'block'])
def test_compiled_parts_train_alike(twenty, tmp_path, draw):
    twenty['stages']['stage1'].update(warmup_steps=0)
    ends, counters = [], torch._dynamo.utils.counters['inductor']
    for compiled in (False, True, 'reduce-overhead'):
        torch._dynamo.reset()
        counters.clear()
        run = Run({**twenty, 'draw': draw, 'compile': compiled, 'tf32': False}, tmp_path, torch.device('cuda'))
        run.begin_stage()
        start = [p.detach().clone() for p in run.model.parameters()]
        with run.batches() as batches:
            for run.step in range(8):  # graphs are recorded at the second, and used from the third on
                run.train_step(run.next_batches(batches))
        ends.append([p.detach().clone() for p in run.model.parameters()])
        assert counters['cudagraph_skips'] == 0
    assert apart(ends[0], ends[1], start) < 0.02 and apart(ends[0], ends[2], start) < 0.02
