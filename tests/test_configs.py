"""The bundled training configs state the published recipe; any value anywhere in a config is run or refused."""

from pathlib import Path

import pytest
import torch
import yaml
from conftest import ROOT, refused
from examples import anything, places, replaced
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import models
import train
from models.training import stages
from models.training.run import Run
from utils import UserError, load_config, merge

CONFIGS = ROOT / 'configs/train'
# Encoder, scales of each stage, and the weights that the first one starts from.
PUBLISHED = {
    f'train_{file}_baseline_MsIT{ending}': (encoder, scales, f'./save/{file.upper()}_MSIT/stage1.pth' if init else None)
    for file, encoder in (('edsr', 'edsr-baseline'), ('rdn', 'rdn'))
    for ending, scales, init in (
        ('', {'stage1': [1, 4]}, False),
        ('_stage2', {'stage2': [1, 8]}, True),
        ('_cumulative', {'stage1': [1, 4], 'stage2': [1, 8]}, False),
    )
}

# Of the peers' recipes: patches of a step, the learning rate, and how many thousand steps until each change of it.
FROM_LIIF = 16, 1e-4, [200, 400, 600, 800, 1000]
FROM_LMF = 16, 1e-4, [200, 400, 600, 800, 1000, 1200]
WITH_SWINIR = 32, 2e-4, [250, 400, 450, 475, 500]
PEERS = {
    'train_edsr_baseline_liif': ('edsr-baseline', 'liif', FROM_LIIF),
    'train_edsr_baseline_lte': ('edsr-baseline', 'lte', FROM_LIIF),
    'train_edsr_baseline_lte_fast': ('edsr-baseline', 'lte-fast', FROM_LIIF),
    'train_edsr_baseline_lmliif': ('edsr-baseline', 'lmliif', FROM_LMF),
    'train_edsr_baseline_lmlte': ('edsr-baseline', 'lmlte', FROM_LMF),
    'train_swinir_lte': ('swinir', 'lte', WITH_SWINIR),
    'train_swinir_lmlte': ('swinir', 'lmlte', WITH_SWINIR),
}
OTHERS = [
    'train_edsr_baseline_MsIT_photos',
    'train_edsr_baseline_liif_photos',
    'train_rdn_baseline_MsIT_photos',
    'train_edsr_light_MsIT',
    'train_edsr_light_liif',
    'train_light_MSIT',
    'train_light_MSIT_gpu',
    'train_photo_MSIT',
    'train_photo_MSIT_gpu',
]


def read(name):
    return train.read_training_config(CONFIGS / f'{name}.yaml')


def test_there_are_no_others():
    assert sorted(path.stem for path in CONFIGS.glob('train_*')) == sorted([*PUBLISHED, *PEERS, *OTHERS])


@pytest.mark.parametrize('name', PUBLISHED)
def test_published_recipe(name):
    encoder, scales, init = PUBLISHED[name]
    config = read(name)
    assert config['model']['args']['encoder_spec'] == {'name': encoder, 'args': {}}
    assert config['init'] == init
    assert (config['patch'], config['queries'], config['draw'], config['batch_size']) == (48, 2304, 'block', 32)
    assert (config['precision'], config['clip_grad'], config['ema_decay']) == ('fp32', None, None)
    assert Path(config['train_dataset']['args']['root_path']) == Path('data/DIV2K/DIV2K_train_HR')
    assert list(config['stages']) == list(scales)
    for stage, limits in scales.items():
        planned = stages.in_steps(config['stages'][stage], 1000)  # 1000 iterations an epoch
        assert (planned['rim'], planned['scales']) == (stage == 'stage2', limits)
        optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=planned['lr'])
        schedule = stages.schedule(optimizer, planned)
        for epoch, rate in ((0, 1e-5), (25, 5.5e-5), (50, 1e-4), (550, 5e-5), (1050, 0)):
            schedule.step_update(1000 * epoch)
            assert optimizer.param_groups[0]['lr'] == pytest.approx(rate, abs=1e-10), epoch


@pytest.mark.parametrize('name', PEERS)
def test_recipe_of_the_peers(name):
    encoder, decoder, (batch_size, lr, thousands) = PEERS[name]
    config = read(name)
    assert config['model']['name'] == decoder and config['model']['args']['encoder_spec']['name'] == encoder
    recipe = [config[key] for key in ('patch', 'queries', 'draw', 'batch_size')]
    assert recipe == [48, 2304, 'pixel', batch_size]
    planned = stages.in_steps(config['stages']['stage1'], 50)
    assert planned['scales'] == [1, 4] and planned['steps'] == 1000 * thousands[-1]
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=planned['lr'])
    schedule = stages.schedule(optimizer, planned)
    for halved, (first, last) in enumerate(zip([0, *thousands], thousands)):
        for step in (1000 * first + 1000, 1000 * last - 1000):
            schedule.step_update(step)
            assert optimizer.param_groups[0]['lr'] == pytest.approx(lr / 2**halved), step


@pytest.mark.parametrize(
    'name, decoder', [('lte', 493_827), ('lte_fast', 493_827), ('lmliif', 165_651), ('lmlte', 270_467)]
)
def test_published_sizes_of_the_peers(name, decoder):
    with torch.device('meta'):
        model = models.build(read(f'train_edsr_baseline_{name}')['model'])
        swinir = models.make({'name': 'swinir'})
        rcan = models.make({'name': 'rcan'})
    encoder = sum(p.numel() for p in model.encoder.parameters())
    assert (encoder, sum(p.numel() for p in model.parameters())) == (1_220_416, 1_220_416 + decoder)
    assert [sum(p.numel() for p in made.parameters()) for made in (swinir, rcan)] == [11_603_044, 15_295_200]


def test_the_light_models_differ_in_the_decoder_alone():
    ours, liif = read('train_edsr_light_MsIT'), read('train_edsr_light_liif')
    with torch.device('meta'):
        sizes = [sum(p.numel() for p in models.build(config['model']).parameters()) for config in (ours, liif)]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.05)
    assert ours['model']['args'].pop('encoder_spec') == liif['model']['args'].pop('encoder_spec')
    for stage in ours['stages'].values():
        stage['rim'] = False
    for config in (ours, liif):
        del config['model']
    assert ours == liif


def test_trainings_on_photos_differ_in_the_model_alone():
    msit = read('train_edsr_baseline_MsIT_photos')
    liif, rdn = read('train_edsr_baseline_liif_photos'), read('train_rdn_baseline_MsIT_photos')
    stage2 = {**msit['stages']['stage2'], 'rim': False}
    assert liif == {
        **msit,
        'model': read('train_edsr_baseline_liif')['model'],
        'stages': {**msit['stages'], 'stage2': stage2},
    }
    assert rdn == {**msit, 'model': read('train_rdn_baseline_MsIT')['model']}


@pytest.mark.parametrize('path', sorted(CONFIGS.glob('ablation/*.yaml')), ids=lambda path: path.stem)
def test_an_ablation_leaves_out_one_thing_on_the_same_budget(path):
    full, config = train.read_training_config(CONFIGS / 'ablation/full.yaml'), train.read_training_config(path)
    with torch.device('meta'):
        sizes = [sum(p.numel() for p in models.build(c['model']).parameters()) for c in (full, config)]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.03)
    left_out = {
        'full': None,
        'no_fem': 'fem',
        'one_kernel_size': 'msno_kernels',
        'no_rim': 'rim',
        'no_position_bias': 'position_bias_spec',
        'fp32': 'precision',
        'block_draw': 'draw',
    }[path.stem]
    for c in (full, config):
        c['model']['args'].pop(left_out, None)
        c.pop(left_out, None)
        if left_out == 'rim':
            del c['stages']['stage2']['rim']
        if left_out == 'precision':
            del c['channels_last']
    assert config == full


@pytest.mark.parametrize(
    'name, difference', [('block', {}), ('pixel', {'draw': 'pixel'}), ('channels_last', {'channels_last': True})]
)
def test_speed_is_measured_at_the_published_size(name, difference):
    published, config = read('train_edsr_baseline_MsIT'), read(f'speed/{name}')
    for c in (published, config):
        del c['train_dataset'], c['validation'], c['batch_size']
    assert config == {**published, **difference}


@pytest.mark.parametrize('name', PUBLISHED)
def test_published_sizes(name):
    with torch.device('meta'):
        model = models.build(read(name)['model'])
    parameters = {part: sum(p.numel() for p in getattr(model, part).parameters()) for part in ('encoder', 'imnet')}
    assert parameters['encoder'] / 1e6 == pytest.approx(1.22 if 'edsr' in name else 21.97, abs=0.005)
    assert parameters['imnet'] / 1e6 == pytest.approx(3.41, abs=0.005)
    assert (model.project.out_channels, model.mssa.heads, model.radius) == (256, 8, 3)
    assert [conv.kernel_size[0] for conv in model.msno.msc.convs] == [3 + 2 * i for i in range(16)]
    assert [conv.kernel_size[0] for conv in model.mssa.msc.convs] == [3, 5, 7, 9]
    assert model.mssa.position_bias.proj.in_features == 64 and model.mssa.position_bias.max_exponent == 10


def test_the_shipped_weights_are_of_the_light_config():
    config = read('train_edsr_light_MsIT')
    spec, blocks = config['model'], [stage.get('blocks') for stage in config['stages'].values()]
    spec['args']['encoder_spec']['args']['n_resblocks'] = blocks[-1]  # what the last stage makes of it
    shipped = models.load(ROOT / 'modelzoo/EDSR_light_MSIT.pth').spec
    assert {'rim': False, **shipped['args']} == {'rim': False, **spec['args']} and shipped['name'] == spec['name']


def test_configs_state_only_what_differs():
    """No config repeats a value that it would inherit; a spec with another name inherits nothing."""

    def repeated(content, below):
        if content.get('name') != below.get('name'):
            return
        for key, value in content.items():
            if isinstance(value, dict) and isinstance(below.get(key), dict):
                yield from repeated(value, below[key])
            elif key in below and below[key] == value:
                yield key

    for path in sorted(CONFIGS.glob('train_*')):
        content = yaml.safe_load(path.read_text(encoding='utf-8'))
        base = content.pop('base')
        below = {}
        for file in [base] if isinstance(base, str) else base:
            below = merge(below, load_config(CONFIGS / file))
        assert not list(repeated(content, below)), path.name


# ---------------------------------------------------------------- values that make no sense


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_config_with_any_value_anywhere_takes_a_step_or_is_refused(config, tmp_path, data):
    known = [
        place
        for place in places(config)
        if place[:2] != ('model', 'args')  # tried in tests/weights/test_files.py
        and place[:1] not in (('workers',), ('compile',))
    ]  # would start processes
    path = tmp_path / 'any.yaml'
    path.write_text(yaml.safe_dump(replaced(config, data.draw(st.sampled_from(known)), data.draw(anything))))
    try:
        content = train.read_training_config(path)
        run = Run(content, tmp_path / 'run', torch.device('cpu'))
        run.begin_stage()
        run.train_step(run.next_batches(run.batches()))
        run.validate(lambda name, picture: None)
    except UserError as error:
        assert str(error)


@pytest.mark.parametrize(
    'change, said',
    [
        (
            lambda c: c.update(init=3),
            'init is a weight file, parts of the model with one each as {encoder: FILE}, or null, not 3',
        ),
        (lambda c: c.update(clip_grad='x'), "clip_grad is a number between 0 and inf or null, not 'x'"),
        (lambda c: c.update(ema_decay=1), 'ema_decay is a number between 0 and 1 or null, not 1'),
        (lambda c: c.update(precision=['fp32']), "precision is one of fp32, bf16, fp16, not ['fp32']"),
        (lambda c: c.update(validation=None), "validation: the key 'dataset' is missing"),
        (lambda c: c['validation'].update(scales=2), 'scales is a list of numbers above 0, not 2'),
        (lambda c: c['validation'].update(scales=[2, 'x']), 'scales is a list'),
        (lambda c: c['validation'].update(protocol='luma'), "unknown protocol 'luma'"),
        (lambda c: c.update(stages={'best': c['stages']['stage1']}), "stage 'best': its name"),
        (lambda c: c.update(stages={'../x': c['stages']['stage1']}), "stage '../x': its name"),
        (lambda c: c.update(stages={3: c['stages']['stage1']}), 'stage 3: its name'),
        (lambda c: c['stages']['stage1'].update(steps=float('inf')), 'steps is a positive number, not inf'),
        (lambda c: c.update(stages=[]), 'stages is a mapping'),
        (lambda c: c.update(model={'name': 'edsr-baseline'}), "'edsr-baseline' is no model that renders images"),
    ],
)
def test_train_refuses_in_one_line_and_leaves_nothing(program, config, change, said):
    change(config)
    Path('run.yaml').write_text(yaml.safe_dump(config))
    refused(program('train.py', '-config', 'run.yaml', '-device', 'cpu'), said)
    assert not Path('save').exists()


@pytest.mark.parametrize(
    'options, said',
    [
        (['-config', 'none.yaml'], 'none.yaml: cannot read the config'),
        (['-config', '.'], 'Is a directory'),
        ([], '-config'),
        (['-config', 'run.yaml', '-device', 'abacus'], "'abacus' is not available"),
        (['-config', 'run.yaml', '-init', 'none.pth'], 'none.pth: no such file'),
        (['-config', 'run.yaml', '-time-limit', 'soon'], "'soon'"),
        (['-config', 'run.yaml', '-resum'], '-resum'),
    ],
)
def test_train_refuses_options(program, config, options, said):
    Path('run.yaml').write_text(yaml.safe_dump(config))
    refused(program('train.py', *options), said)
    assert not Path('save').exists()


@pytest.mark.parametrize('name', ['encode', 'query'])
def test_too_little_memory_in_training_is_one_line(program, config, monkeypatch, name):
    def fail(self, *arguments):
        raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 20.00 GiB.\nGPU 0 has')

    monkeypatch.setattr(models.msit.MSIT, name, fail)
    Path('run.yaml').write_text(yaml.safe_dump(config))
    refused(program('train.py', '-config', 'run.yaml', '-device', 'cpu'), 'not enough memory')
    assert not list(Path('save/run').glob('.*'))


def test_too_little_memory_in_test_is_one_line(program, photos, monkeypatch):
    images = {'name': 'image-folder', 'args': {'root_path': str(photos)}}
    Path('set.yaml').write_text(
        yaml.safe_dump(
            {'protocol': 'benchmark', 'dataset': {'name': 'sr-evaluation', 'args': {'dataset': images, 'scale': 2}}}
        )
    )
    options = ['-config', 'set.yaml', '-model', ROOT / 'modelzoo/EDSR_light_MSIT.pth', '-device', 'cpu']

    def fail(*arguments):
        raise MemoryError

    for target in ('models.msit.MSIT.encode', 'datasets.wrappers.reduced', 'models.evaluation.loop.ssim'):
        with monkeypatch.context() as patch:
            patch.setattr(target, fail)
            refused(program('test.py', *options), 'memory')
        assert not Path('save').exists()
