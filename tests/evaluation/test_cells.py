"""models/evaluation/cells.py: the keys of results, which must be found again whatever is changed in the code."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.evaluation.cells import Options, cells_of_set
from models.evaluation.contenders import load_contender, load_outputs
from models.evaluation.perceptual import Metric

SCALES = [(2.0, 2.0), (2.0, 1.5)]
LPIPS = Metric('lpips', 'pyiqa 0.1', lambda sr, hr: (sr - hr).abs().mean(), alone=False)
# Of bicubic on the fixture's images, by degradation and scale.
GOLDEN = {
    ('clean', (2.0, 2.0)): 'af695377043d10a189df9429a0f925df',
    ('clean', (2.0, 1.5)): 'aea28cc627bb8f85d64fc9ac145e5ce8',
    ('noise8', (2.0, 2.0)): '0abbf4e6a36a2a1ec127192ab5c55450',
    ('noise8', (2.0, 1.5)): '72ad42c59a5dfbc4c3f94706f33b9ab5',
}


@pytest.fixture
def images(tmp_path):
    """A folder of two images of fixed content."""
    folder = tmp_path / 'images'
    folder.mkdir()
    for i in range(2):
        pixels = (np.arange(48 * 40 * 3).reshape(48, 40, 3) * (7 + i) % 251).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f'p{i}.png')
    return folder


def cells(images, contender, options=Options(), degradations=('clean',), scales=SCALES[:1], label='set'):
    return cells_of_set(label, str(images), list(degradations), list(scales), [contender], options)


def test_keys_stay_those_of_results_that_exist(images):
    found = cells(images, load_contender('a', 'bicubic'), degradations=['clean', 'noise8'], scales=SCALES)
    assert {(cell.degrade, cell.scale): cell.key for cell in found} == GOLDEN
    (rounded,) = cells(images, load_contender('a', 'bicubic'), Options(eight_bit=True))
    (outputs,) = cells(images, load_outputs('a', str(images)), Options(eight_bit=True))
    assert rounded.key == 'b7ebd9b6a93017a4d742389cf276774a' and outputs.key not in (rounded.key, *GOLDEN.values())


def test_a_key_depends_on_the_images_and_options_and_on_no_name(images):
    def key(contender='bicubic', label='set', **options):
        (cell,) = cells(images, load_contender(label, contender), Options(**options), label=label)
        return cell.key

    other = LPIPS._replace(source='piq 0.1')
    found = [key(), key(eight_bit=True), key(ensemble=True), key(metrics=(LPIPS,)), key(metrics=(other,))]
    assert key(label='another') == found[0]
    pixels = np.asarray(Image.open(images / 'p0.png')).copy()
    pixels[3, 5, 1] ^= 1
    Image.fromarray(pixels).save(images / 'p0.png')
    found.append(key())
    Path(images / 'p0.png').rename(images / 'q0.png')
    found.append(key())
    assert len(set(found)) == len(found)
