"""Trainings in processes of their own that start quickly, forked from a server that has imported everything."""

import io
import multiprocessing
import os
import runpy
import signal
import sys
from pathlib import Path
from unittest import mock

import torch
from conftest import ROOT

context = multiprocessing.get_context('forkserver')
PRELOADED = (
    'models.training.run',
    'models.training.profile',
    'torch._dynamo',
    'matplotlib.backends.backend_svg',
    'conftest',
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
