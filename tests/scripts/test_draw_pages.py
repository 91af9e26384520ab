"""scripts/draw_pages.py: pages of text to train on."""

import argparse
import runpy

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image, ImageChops

from utils import UserError

PROGRAM = 'scripts/draw_pages.py'


def test_the_same_pages_every_time(tmp_path, monkeypatch):
    script, arguments = runpy.run_path(str(ROOT / PROGRAM)), argparse.Namespace(folder=tmp_path / 'pages')
    monkeypatch.setitem(script['main'].__globals__, 'PAGES', 3)
    script['main'](arguments)
    files = sorted(arguments.folder.iterdir())
    assert [path.name for path in files] == ['page_00.png', 'page_01.png', 'page_02.png']
    again = [script['Page'](number).fill() for number in range(3)]
    for path, page in zip(files, again):
        assert ImageChops.difference(Image.open(path), page).getbbox() is None
    assert ImageChops.difference(*again[:2]).getbbox()
    with pytest.raises(UserError, match='page_00.png is there already'):
        script['main'](arguments)


def test_each_page_is_full_of_strokes():
    page = runpy.run_path(str(ROOT / PROGRAM))['Page']
    for number in range(0, 96, 16):
        grey = np.asarray(page(number).fill().convert('L'), dtype=float)
        edges = np.abs(np.diff(grey, axis=1)) > 60
        assert grey.shape == (600, 800) and edges.mean() > 0.01
        assert (edges.reshape(6, -1).mean(axis=1) > 0.001).all()  # from top to bottom
