"""Programs in processes of their own that start quickly, forked from a server that has imported everything.

The server has a single thread: one with more, as pytest's is once torch has worked in it, must not be forked.
"""

import io
import multiprocessing
import os
import runpy
import signal
import sys
import time
from pathlib import Path
from unittest import mock

import torch
from conftest import ROOT

from models.rendering.upscaler import Upscaler

context = multiprocessing.get_context('forkserver')
PRELOADED = (
    'models.training.run',
    'models.training.profile',
    'torch._dynamo',
    'matplotlib.backends.backend_svg',
    'conftest',
    'demo',
)
context.set_forkserver_preload(list(PRELOADED))


def start(function, *arguments, environment=None, **options):
    """A process that runs `function(*arguments, **options)`, a function of a module, with more in its `environment`."""
    process = context.Process(target=run, args=(function, arguments, options, environment or {}))
    with mock.patch.dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)):  # for what the server imports
        process.start()
    return process


def run(function, arguments, options, environment):
    multiprocessing.set_start_method('fork', force=True)  # of the loader's workers
    os.environ.update(environment)
    torch.set_num_threads(1)
    function(*arguments, **options)


def train(folder, *options, die_in_save=None, group=False):
    """`train.py` on the CPU with the current folder `folder`; what it prints goes to `folder/output.txt`.

    `die_in_save`: which call of torch.save, from 1 on, ends as by SIGKILL in the middle of writing.
    `group`: in a group of processes of its own, with its workers.
    """
    os.chdir(folder)
    if hasattr(signal, 'SIGHUP'):
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may have been started by nohup
    if group:
        os.setsid()
    output = os.open('output.txt', os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    if die_in_save:
        left, save = die_in_save, torch.save

        def save_or_die(content, path):
            nonlocal left
            left -= 1
            if left:
                return save(content, path)
            buffer = io.BytesIO()
            save(content, buffer)
            Path(path).write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
            os.kill(os.getpid(), signal.SIGKILL)

        torch.save = save_or_die
    sys.argv = [str(ROOT / 'train.py'), '-device', 'cpu', *map(str, options)]
    runpy.run_path(sys.argv[0], run_name='__main__')


def demo(folder, *options, stdout='stdout', encoding='utf-8', until=None):
    """`demo.py` with bicubic on the CPU with the current folder `folder`; its stderr goes to a file of that name there.

    `stdout`: a file, or None for a pipe that nobody reads, in an `encoding`. `until`: it hangs while rendering, a file
    `begun` says so, until it gets this signal.
    """
    os.chdir(folder)
    if stdout:
        os.dup2(os.open(stdout, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
    else:
        reader, writer = os.pipe()
        os.dup2(writer, 1)
        os.close(reader), os.close(writer)
    os.dup2(os.open('stderr', os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    sys.stdout = open(1, 'w', encoding=encoding, closefd=False)
    sys.stderr = open(2, 'w', encoding=encoding, errors='backslashreplace', closefd=False)
    if until:
        # not as nohup sets it
        signal.signal(until, signal.default_int_handler if until == signal.SIGINT else signal.SIG_DFL)
        Upscaler.bands = hang
    sys.argv = [str(ROOT / 'demo.py'), '-device', 'cpu', '-model', 'bicubic', *options]
    try:
        runpy.run_path(sys.argv[0], run_name='__main__')
    except SystemExit as stopped:
        os._exit(stopped.code)  # nothing is flushed: that is for the program to do


def hang(*_):
    Path('begun').touch()
    time.sleep(600)
