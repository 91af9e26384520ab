"""The figure of what the weights know and do not know."""

from PIL import Image


def test_four_inputs_in_four_columns(program):
    status, out, err = program('scripts/limits.py', '-model', 'bicubic', '-output', 'new/limits.png', '-device', 'cpu')
    lines = out.splitlines()
    assert (status, err) == (0, '') and len(lines) == 5 and lines[-1] == 'written: new/limits.png'
    for line, words in zip(lines, ('reduced by bicubic', 'JPEG', 'noise', 'blurred')):
        assert words in line
        ours, theirs = line.split('  ')[1:]
        assert ours.removeprefix('bicubic') == theirs.removeprefix('MSIT')
    with Image.open('new/limits.png') as image:
        assert image.width == 4 * 250 + 10 and image.height == 4 * 232
