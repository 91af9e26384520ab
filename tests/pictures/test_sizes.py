"""Scales as people type them."""

import pytest

from datasets.pictures.sizes import parse_scale
from utils import UserError


def test_scales_are_read_from_text():
    for text in ('3.3', '3.3x', ' 3.3 ', '3.3X', '3.3×', 'x3.3', 'X 3.3', '×3.3'):
        assert parse_scale(text) == (3.3, 3.3)
    for text in ('2x3.5', '2,3.5', '2, 3.5', '2 x 3.5', '2X3.5', '2.0×3.50'):
        assert parse_scale(text) == (2, 3.5)
    for text in (
        '',
        'x',
        ',',
        '2,',
        ',2',
        'two',
        '2xx3',
        'xx2',
        '2%',
        '2x3x4',
        '2,3,4',
        '2x3x',
        '-1',
        '0x2',
        'nan',
        '2,inf',
    ):
        with pytest.raises(UserError, match='as 2x3.5'):
            parse_scale(text)
