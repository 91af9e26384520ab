"""Summaries of runs: what their folders tell, tables, seeds taken together, the plot."""

import copy
import json
from pathlib import Path

import pytest
import yaml
from conftest import refused
from PIL import Image

from models.training.summary import find_runs, summarise, table
from utils import UserError

PROGRAM = 'scripts/summary.py'


def entry(time, **content):
    return {'time': f'2026-01-01T{time}', **content}


LOG = [
    entry('10:00:00', start={}, parameters=1234),
    entry('10:01:00', stage='stage1', step=100, loss=0.1),
    entry('10:02:00', stage='stage1', step=100, psnr={'x2': 30.0, 'x3': 28.0, 'mean': 29.0}),
    entry('10:03:00', stage='stage1', step=200, psnr={'x2': 31.0, 'x3': 29.0, 'mean': 30.0}),
    entry('10:04:00', stage='stage2', step=50, psnr={'x2': 33.0, 'x3': 30.0, 'mean': 31.5}),
    entry('12:00:00', start={}, parameters=1234, stage='stage2', step=50),
    entry('12:00:30', stage='stage2', step=80, psnr={'x2': 32.0, 'x3': 30.0, 'mean': 31.0}),
]


@pytest.fixture
def make_run(tmp_path, config):
    """`make_run(name, finished=..., psnr=...)` makes the folder of a run."""

    def make(name, finished=True, more=0.0, **keys):
        folder = tmp_path / 'save' / name
        folder.mkdir(parents=True)
        (folder / 'config.yaml').write_text(yaml.safe_dump({**config, **keys}))
        log = copy.deepcopy(LOG)
        log[-1]['psnr'] = {key: value + more for key, value in log[-1]['psnr'].items()}
        (folder / 'log.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in log))
        if finished:
            (folder / 'stage2.pth').write_bytes(b'')
        return folder

    return make


def test_what_a_folder_tells(make_run):
    run = summarise(make_run('a'))
    assert (run.finished, run.stage, run.steps, run.parameters) == (True, 'stage2', 280, 1234)
    assert run.psnr == {'x2': 32.0, 'x3': 30.0, 'mean': 31.0} and run.best == 31.5
    assert run.seconds == 4 * 60 + 30  # not the hours between the sessions
    assert run.curve == [(100, 29.0), (200, 30.0), (250, 31.5), (280, 31.0)]


def test_a_run_that_was_killed_while_it_wrote(make_run):
    folder = make_run('a', finished=False)
    with open(folder / 'log.jsonl', 'a') as file:
        file.write('{"time": "2026-')
    assert summarise(folder).steps == 280 and not summarise(folder).finished


def test_a_table_has_a_row_for_each_run_and_one_for_seeds(make_run):
    runs = [make_run('a', seed=0), make_run('b', seed=1, more=1.0), make_run('c', seed=2, more=2.0)]
    runs += [make_run('d', batch_size=8), make_run('e', finished=False, seed=3)]
    lines = table([summarise(folder) for folder in runs]).splitlines()
    assert lines[0] == '| run | PSNR x2 | PSNR x3 | mean | best | steps | seconds | parameters |'
    assert len(lines) == 2 + 5 + 1 and lines[2].endswith('| 32.000 | 30.000 | 31.000 | 31.500 | 280 | 270 | 1234 |')
    assert '(not finished)' in lines[6]
    assert lines[7].endswith('a and 2 more seeds | 33.000 ± 1.000 | 31.000 ± 1.000 | 32.000 ± 1.000 |  |  | 270 |  |')


def test_two_seeds_are_one_and_one_more(make_run):
    runs = [make_run('a', seed=0), make_run('b', seed=1, more=1.0)]
    assert 'a and 1 more seed | 32.500 ± 0.707 |' in table([summarise(folder) for folder in runs])


def test_runs_are_found_in_folders(make_run, tmp_path):
    a, b = make_run('sweep/a'), make_run('sweep/b')
    (tmp_path / 'save/sweep/notes').mkdir()
    assert find_runs([tmp_path / 'save/sweep']) == find_runs([a, b, a]) == [a, b]
    for folder, said in ((tmp_path / 'none', 'no such folder'), (tmp_path / 'save/sweep/notes', 'holds no run')):
        with pytest.raises(UserError, match=said):
            find_runs([folder])


def test_the_program_prints_a_table_and_draws(program, make_run):
    make_run('a'), make_run('b')
    status, out, err = program(PROGRAM, 'save/a', 'save/b', '-plot', 'curves.png')
    assert (status, err) == (0, '') and out.count('\n') == 4
    assert min(Image.open('curves.png').size) > 300


@pytest.mark.parametrize(
    'options, said',
    [
        (['none'], 'none: no such folder'),
        (['save/a', '-plot', 'none/curves.png'], 'none/curves.png: cannot be written'),
        (['save/a', '-plot', 'curves.xyz'], 'curves.xyz: cannot be written'),
    ],
)
def test_the_program_refuses_in_one_line(program, make_run, options, said):
    make_run('a')
    refused(program(PROGRAM, *options), said)


@pytest.mark.parametrize('line', ['{', '3'])
def test_a_damaged_log_is_one_line(program, make_run, line):
    (make_run('a') / 'log.jsonl').write_text(f'{line}\n')
    refused(program(PROGRAM, 'save/a'), 'log.jsonl: line 1 is no JSON')
    assert Path('save/a').is_dir()
