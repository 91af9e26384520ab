"""The figure of degraded patches."""

import runpy

import numpy as np
import pytest
from conftest import ROOT, refused
from PIL import Image

from datasets.degradations import Degradations


def test_every_panel_is_what_its_title_says():
    script = runpy.run_path(str(ROOT / 'scripts/degradations.py'))
    image = np.random.default_rng(0).integers(0, 256, (150, 140, 3), np.uint8)
    degradations = Degradations({'jpeg': {'probability': 0.7, 'quality': [20, 90], 'subsampling': ['4:2:0']}})
    panels = script['figure'](image, 128, degradations).axes
    assert len(panels) == 24
    for number, panel in enumerate(panels):
        degradation = degradations.draw(np.random.default_rng(number))
        assert panel.get_title().replace('\n', ' ') == str(degradation)
        expected = degradation.reduce(image[11:139, 6:134], (64, 64))
        assert np.array_equal(panel.get_images()[0].get_array(), expected)


def test_the_figure_of_a_config(program, tmp_path):
    status, out, err = program('scripts/degradations.py', '-output', 'new/figure.png')
    assert (status, out, err) == (0, 'written: new/figure.png\n', '')
    with Image.open('new/figure.png') as image:
        assert min(image.size) > 1000


@pytest.mark.parametrize(
    'options, said',
    [
        (['-config', ROOT / 'configs/train/train_light_MSIT.yaml'], 'no stage of this config degrades its images'),
        (['-config', 'none.yaml'], 'none.yaml'),
        (['-scale', '9'], '576 x 576 pixels are needed'),
        (['-output', 'a.txt'], 'the figure must be a file that ends in .png'),
    ],
)
def test_mistakes(program, options, said):
    refused(program('scripts/degradations.py', *options), said)
