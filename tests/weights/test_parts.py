"""Parts of a model from other files: what is taken, what is told, what is refused."""

import pytest
import torch
import yaml
from conftest import TINY, refused
from examples import LIIF, built

import models
from models.weights.parts import fill_parts
from utils import Note, UserError

LIKE_TINY = {'name': 'liif', 'args': {**LIIF['args'], 'encoder_spec': TINY['args']['encoder_spec']}}


def fresh():
    torch.manual_seed(1)
    return models.build(TINY)


def published_edsr():
    torch.manual_seed(2)
    encoder = models.make(TINY['args']['encoder_spec'])
    return {**encoder.state_dict(), 'tail.0.0.weight': torch.zeros(1), 'sub_mean.bias': -127.5 * torch.ones(3)}


def files(folder):
    models.save(folder / 'liif.pth', built(LIKE_TINY, 5, torch.float32), {})
    models.save(folder / 'other.pth', built(LIIF, 5, torch.float32), {})
    models.save(folder / 'tiny.pth', built(TINY, 5, torch.float32), {})
    torch.save(published_edsr(), folder / 'edsr.pt')
    torch.save({'params': published_edsr()}, folder / 'params.pth')
    torch.save({'module.conv.weight': torch.zeros(1)}, folder / 'unknown.pth')


@pytest.mark.parametrize('file', ['liif.pth', 'tiny.pth', 'edsr.pt', 'params.pth'])
def test_a_part_is_taken_and_nothing_else(tmp_path, file):
    files(tmp_path)
    model, before = fresh(), fresh().state_dict()
    with pytest.warns(Note) as notes:
        fill_parts(model, {'encoder': str(tmp_path / file)})
    if file.endswith('pth') and file != 'params.pth':
        source = models.load(tmp_path / file).state_dict()
    else:
        source = {f'encoder.{k}': v / 127.5 if k.endswith('bias') else v for k, v in published_edsr().items()}
    after = model.state_dict()
    for name, value in after.items():
        assert torch.equal(value, source[name] if name.startswith('encoder.') else before[name]), name
    said = str(notes[-1].message)
    assert f'init: encoder: 8 of 8 weights are those of {tmp_path / file}' in said
    left = {'liif.pth': 'imnet', 'tiny.pth': 'project, msno, mssa and 1 more'}.get(file, 'tail, sub_mean')
    assert said.endswith(f'; left in it: {left}')


def test_parts_of_several_files(tmp_path):
    files(tmp_path)
    model = fresh()
    with pytest.warns(Note):
        fill_parts(model, {'encoder': str(tmp_path / 'edsr.pt'), 'msno.value': str(tmp_path / 'tiny.pth')})
    source = models.load(tmp_path / 'tiny.pth').state_dict()
    for name, value in model.state_dict().items():
        same = (
            name in source and torch.equal(value, source[name]) and not torch.equal(value, fresh().state_dict()[name])
        )
        assert same == name.startswith('msno.value.'), name


def test_what_the_file_lacks_is_told(tmp_path):
    files(tmp_path)
    state = published_edsr()
    del state['body.1.weight'], state['body.1.bias']
    torch.save(state, tmp_path / 'short.pt')
    with pytest.warns(Note, match=r'6 of 8 weights .*it lacks encoder.body.1.weight, encoder.body.1.bias; left in it'):
        fill_parts(fresh(), {'encoder': str(tmp_path / 'short.pt')})


@pytest.mark.parametrize(
    'part, file, said',
    [
        ('encodr', 'edsr.pt', "init: the model has no part 'encodr', did you mean 'encoder'"),
        ('msno', 'edsr.pt', 'init: msno: .*edsr.pt: has nothing of this part, only encoder'),
        ('encoder', 'other.pth', r'encoder.head.0.weight is \(4, 3, 3, 3\) there and \(8, 3, 3, 3\) in the model'),
        ('encoder', 'unknown.pth', 'holds no model but weights alone, of no architecture'),
        ('encoder', 'none.pth', 'init: encoder: .*none.pth: no such file'),
    ],
)
def test_what_cannot_be_taken(tmp_path, part, file, said):
    files(tmp_path)
    with pytest.raises(UserError, match=said):
        fill_parts(fresh(), {part: str(tmp_path / file)})


def test_a_run_starts_from_parts(program, config, tmp_path):
    files(tmp_path)
    stage = {**config['stages']['stage2'], 'lr': 1e-30, 'warmup_lr': 0.0, 'steps': 3, 'blocks': 2}
    config.update(stages={'stage1': stage}, ema_decay=None, init={'encoder': 'edsr.pt'})
    (tmp_path / 'run.yaml').write_text(yaml.safe_dump(config))
    status, _, err = program('train.py', '-config', 'run.yaml', '-device', 'cpu')
    assert status == 0 and err.count('note: init: encoder: 8 of 8') == 1
    trained = models.load('save/run/stage1.pth').state_dict()
    assert torch.equal(trained['encoder.head.0.weight'], published_edsr()['head.0.weight'])
    assert torch.equal(trained['encoder.body.2.weight'], published_edsr()['body.1.weight'])  # behind a block more
    assert program('train.py', '-config', 'run.yaml', '-device', 'cpu', '-resume')[0] == 0


@pytest.mark.parametrize(
    'init, said',
    [
        ('[encoder]', 'init is a weight file, parts of the model with one each'),
        ('{encoder: 3}', 'init is a weight file'),
        ('{encodr: edsr.pt}', "no part 'encodr'"),
        ('{encoder: none.pt}', 'none.pt: no such file'),
    ],
)
def test_a_run_refuses_in_one_line(program, config, tmp_path, init, said):
    files(tmp_path)
    (tmp_path / 'run.yaml').write_text(yaml.safe_dump(config))
    refused(program('train.py', '-config', 'run.yaml', '-device', 'cpu', '-set', f'init={init}'), said)
    assert not (tmp_path / 'save').exists()
