"""What holds for all programs: how they begin, and streams that were closed before."""

import ast
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

OWN = {'onnx_example.py'}  # an example in numpy to be copied, which shares nothing with the project
PROGRAMS = [ROOT / name for name in ('train.py', 'test.py', 'demo.py')]
PROGRAMS += sorted(path for path in (ROOT / 'scripts').glob('*.py') if path.name not in OWN)


@pytest.mark.parametrize('program', PROGRAMS, ids=lambda path: path.name)
def test_ctrl_c_is_silent_before_anything_that_takes_long_is_imported(program):
    for node in ast.parse(program.read_text(encoding='utf-8')).body:
        if isinstance(node, ast.If) and 'SIG_DFL' in ast.unparse(node):
            return
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            assert {name.partition('.')[0] for name in names} <= sys.stdlib_module_names, names
    pytest.fail('Ctrl-C is never made silent')


def heed_ctrl_c():
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # which a shell makes its background commands ignore


@pytest.mark.parametrize('program', ['demo.py', 'scripts/evaluate.py', 'scripts/compare.py', 'scripts/sweep.py'])
def test_ctrl_c_while_torch_is_imported_shows_no_traceback(program):
    command = [sys.executable, '-X', 'importtime', ROOT / program, '-help']
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, preexec_fn=heed_ctrl_c)
    for line in process.stderr:
        if b'torch' in line:
            break
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=600)
    assert process.returncode == -signal.SIGINT and b'Traceback' not in err and b'KeyboardInterrupt' not in err


@pytest.mark.parametrize('closed', [(2,), (1, 2), (0, 1, 2)], ids=str)
@pytest.mark.parametrize('more', [[], ['-quiet']], ids=['', 'quiet'])
def test_streams_that_are_closed(tmp_path, closed, more):
    Image.fromarray(np.full((5, 6, 3), 90, np.uint8)).save(tmp_path / 'in.png')

    def close():
        for number in closed:
            os.close(number)

    command = [
        sys.executable,
        ROOT / 'demo.py',
        'in.png',
        '-o',
        'out.png',
        '-model',
        'bicubic',
        '-device',
        'cpu',
        *more,
    ]
    done = subprocess.run(command, cwd=tmp_path, preexec_fn=close, timeout=600)
    assert done.returncode == 0
    assert np.asarray(Image.open(tmp_path / 'out.png')).shape == (20, 24, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['in.png', 'out.png']
