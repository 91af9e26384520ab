"""Training on pairs that are there, and LR images by several filters."""

import json

import numpy as np
import pytest
import torch
import yaml
from conftest import refused
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from test_datasets import QUICK, random_image, save

import datasets
from datasets.image_folder import PairedImageFolders
from datasets.paired import OfScale, PairedSets, PairedTraining
from datasets.pictures.resize import FILTERS, matlab_resize, resized
from datasets.wrappers import Training
from models.training.run import Run
from utils import UserError


def pairs_of(folder, scale, count=3, left_over=0):
    """Folders of pairs in which every HR pixel tells its LR pixel, which tells the image and its place."""
    lr = np.zeros((14, 16, 3), np.uint8)
    lr[..., 1], lr[..., 2] = np.mgrid[:14, :16]
    for k in range(count):
        lr[..., 0] = 40 * scale + k
        hr = lr.repeat(scale, axis=0).repeat(scale, axis=1)
        hr = np.pad(hr, ((0, left_over), (0, 0), (0, 0)))
        save(folder / f'lr{scale}', f'a{k}x{scale}.png', lr)
        save(folder / f'hr{scale}', f'a{k}.png', hr)
    return {'root_path_1': str(folder / f'lr{scale}'), 'root_path_2': str(folder / f'hr{scale}'), 'cache': 'in_memory'}


@pytest.fixture(scope='module')
def sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp('pairs')
    return PairedSets([PairedImageFolders(**pairs_of(folder, scale, left_over=scale - 1)) for scale in (1, 2, 3)])


def samples(dataset, scales=(1, 4), **more):
    args = {'scale_min': scales[0], 'scale_max': scales[1], 'batch_size': 4, 'steps': 50, 'patch': 6, 'queries': 16}
    return PairedTraining(dataset, **(args | more))


@given(st.integers(0, 199), st.integers(0, 9), st.sampled_from(['block', 'pixel', 'patch']), st.booleans())
@QUICK
def test_what_a_sample_is(sets, n, seed, draw, augment):
    dataset = samples(sets, draw=draw, augment=augment, seed=seed)
    item, again = dataset[n], samples(sets, draw=draw, augment=augment, seed=seed)[n]
    assert all(torch.equal(item[key], again[key]) for key in ('lr', 'hr', 'index'))
    scale = item['hr'].shape[-1] // 6
    assert item['lr'].shape == (3, 6, 6) and item['hr'].shape == (3, 6 * scale, 6 * scale)
    assert torch.equal(item['hr'], item['lr'].repeat_interleave(scale, 1).repeat_interleave(scale, 2))  # turned alike
    assert (item['lr'][0] // 40 == scale).all()
    assert dataset[n // 4 * 4]['hr'].shape == item['hr'].shape  # a step has one scale
    if not augment:
        assert (item['lr'][1].diff(dim=0) == 1).all() and (item['lr'][2].diff(dim=1) == 1).all()


def test_every_scale_and_every_image_comes(sets):
    dataset = samples(sets)
    seen = {(item['hr'].shape[-1] // 6, int(item['lr'][0, 0, 0]) % 40) for item in map(dataset.__getitem__, range(200))}
    assert seen == {(scale, k) for scale in (1, 2, 3) for k in range(3)}
    one = samples(sets, (2, 2))
    epochs = [[int(one[n]['lr'][0, 0, 0]) for n in range(3 * k, 3 * k + 3)] for k in range(20)]
    assert all(sorted(epoch) == [80, 81, 82] for epoch in epochs) and len(set(map(tuple, epochs))) > 2


def test_of_one_scale(sets):
    part = OfScale(sets, 2.0)
    assert len(part) == 3 and [part.name(i) for i in range(3)] == ['a0', 'a1', 'a2']
    assert all(hr.shape == (29, 32, 3) for _, hr in map(part.__getitem__, range(3)))


@pytest.mark.parametrize(
    'change, said',
    [
        ({'scales': (4, 8)}, 'no pairs are of a scale from 4 to 8, but of 1, 2, 3'),
        ({'patch': 15}, 'a0: an LR image of 14 x 16 pixels is smaller than a patch of 15'),
        ({'draw': 'all'}, 'sr-training-paired: draw is one of'),
        ({'batch_size': 0}, 'sr-training-paired: batch_size is a whole number'),
        ({'scales': (3, 2)}, 'scales from 3 to 2 make no sense'),
    ],
)
def test_what_makes_no_sense(sets, change, said):
    with pytest.raises(UserError, match=said):
        samples(sets, **change)


@pytest.mark.parametrize('size', [(20, 15), (21, 20), (9, 10)])
def test_pairs_of_no_whole_scale_are_named(tmp_path, size):
    save(tmp_path / 'lr', 'a.png', random_image(0, 10, 10, 3))
    save(tmp_path / 'hr', 'a.png', random_image(0, *size, 3))
    dataset = PairedImageFolders(tmp_path / 'lr', tmp_path / 'hr')
    if size == (21, 20):  # a row is left over
        assert len(samples(dataset)) == 200
        return
    with pytest.raises(UserError, match=rf'a: an LR image of 10 x 10 and an HR image of {size[0]} x {size[1]} pixels'):
        samples(dataset)


@pytest.mark.parametrize('specs', [[], 3, [{'name': 'image-folder', 'args': {'root_path': '.'}}]])
def test_sets_of_something_else_are_refused(specs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path, 'a.png', random_image(0, 10, 10, 3))
    with pytest.raises(UserError, match='a list of specs|pairs of images is needed'):
        datasets.make({'name': 'paired-sets', 'args': {'datasets': specs}})


# ---------------------------------------------------------------- a run


@pytest.fixture
def paired_config(config, tmp_path):
    specs = [{'name': 'paired-image-folders', 'args': pairs_of(tmp_path, scale)} for scale in (2, 3)]
    config['train_dataset'] = {'name': 'paired-sets', 'args': {'datasets': specs}}
    config['validation'] = {'dataset': specs[0], 'protocol': 'benchmark', 'scales': [2]}
    config['patch'] = 8
    config['stages'] = {'stage1': {**config['stages']['stage1'], 'scales': [2, 4]}}
    return config


def test_a_run_trains_on_pairs_and_sees_that_they_change(program, paired_config, tmp_path):
    (tmp_path / 'run.yaml').write_text(yaml.safe_dump(paired_config))
    status, _, err = program('train.py', '-config', 'run.yaml', '-device', 'cpu')
    assert status == 0, err
    described = json.loads((tmp_path / 'save/run/images.json').read_text())
    assert [image['name'] for image in described[:6:3]] == ['1 LR/a0x2.png', '1 HR/a0.png'] and len(described) == 12
    save(tmp_path / 'lr3', 'a1x3.png', random_image(0, 14, 16, 3))
    again = program('train.py', '-config', 'run.yaml', '-device', 'cpu', '-resume')
    refused(again, 'the training images have changed', '1 of another size (2 LR/a1x3.png)')


@pytest.mark.parametrize(
    'setting, said',
    [
        ('filter=area', 'filter says how LR images are made, which pairs of images have already'),
        ('stages.stage1.shrink=0.5', 'shrink says how LR images are made'),
        ('stages.stage1.scales=[4,8]', "stage 'stage1': sr-training-paired: no pairs are of a scale from 4 to 8"),
        ('validation.scales=[3]', 'validation: no pairs are of scale 3, but of 2'),
    ],
)
def test_a_run_refuses_in_one_line(program, paired_config, tmp_path, setting, said):
    (tmp_path / 'run.yaml').write_text(yaml.safe_dump(paired_config))
    refused(program('train.py', '-config', 'run.yaml', '-device', 'cpu', '-set', setting), said)


# ---------------------------------------------------------------- filters


@pytest.mark.parametrize('name', FILTERS)
@pytest.mark.parametrize('scale', [1, 2, 3.5])
def test_filters(name, scale):
    image = random_image(0, 28, 42, 3)
    size = tuple(round(n / scale) for n in image.shape[:2])
    lr = resized(image, size, name)
    assert lr.shape == (*size, 3) and lr.dtype == np.uint8
    if scale == 1:
        assert np.array_equal(lr, image)
    elif name == 'area' and scale == 2:
        means = image.reshape(14, 2, 21, 2, 3).mean(axis=(1, 3))
        assert np.abs(lr - means).max() <= 1  # PIL rounds after each axis
    elif name == 'matlab':
        assert np.array_equal(lr, matlab_resize(image, size, (1 / scale, 1 / scale)))
    elif name in ('bicubic', 'lanczos'):
        resample = {'bicubic': Image.Resampling.BICUBIC, 'lanczos': Image.Resampling.LANCZOS}[name]
        assert np.array_equal(lr, np.asarray(Image.fromarray(image).resize(size[::-1], resample)))


@pytest.mark.parametrize('name', FILTERS)
def test_samples_differ_in_their_filter_alone(photos, name):
    images = {'name': 'image-folder', 'args': {'root_path': str(photos)}}
    args = {'scale_min': 2, 'scale_max': 3, 'batch_size': 2, 'steps': 2, 'patch': 12, 'queries': 9}
    usual, other = (Training(images, **args, **more)[3] for more in ({}, {'filter': name}))
    assert torch.equal(usual['hr'], other['hr']) and torch.equal(usual['index'], other['index'])
    assert torch.equal(usual['lr'], other['lr']) == (name == 'bicubic')


def test_the_config_says_which_filter(config, tmp_path, program):
    run = Run({**config, 'filter': 'lanczos'}, tmp_path, torch.device('cpu'))
    assert [samples.filter for samples in run.samples] == ['lanczos'] * 2
    (tmp_path / 'run.yaml').write_text(yaml.safe_dump(config))
    refused(
        program('train.py', '-config', 'run.yaml', '-device', 'cpu', '-set', 'filter=lanczo'),
        "unknown filter 'lanczo', did you mean 'lanczos'",
    )
