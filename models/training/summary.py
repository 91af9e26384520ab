"""What finished and unfinished runs have come to, read from their folders."""

import json
import statistics
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from models.training.config import changes
from utils import UserError, load_config


class Summary(NamedTuple):
    """A run, as its folder tells of it."""

    name: str
    config: dict
    finished: bool  # whether the last stage has reached its end
    stage: str | None  # the last one that the log tells of
    steps: int  # that it has taken, of all stages
    psnr: dict[str, float]  # the last validation, each set's and their 'mean'
    best: float | None  # the best mean of the last stage
    seconds: float  # that the run was at work, as far as the log tells
    parameters: int | None
    curve: list[tuple[int, float]]  # the steps of all stages, and the mean PSNR there
    losses: list[tuple[int, float]]  # these steps, and the mean loss since the one before


def find_runs(folders: Iterable[str | Path]) -> list[Path]:
    """The folders of runs among `folders` and directly in them, in order. Raises UserError for a folder without any."""
    found = []
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise UserError(f'{folder}: no such folder')
        inside = [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]
        runs = [path for path in inside if (path / 'log.jsonl').is_file() and (path / 'config.yaml').is_file()]
        if not runs:
            raise UserError(f'{folder}: holds no run with config.yaml and log.jsonl')
        found += [run for run in runs if run not in found]
    return found


def summarise(folder: Path) -> Summary:
    """The summary of the run in `folder`. Raises UserError if its config or log cannot be read."""
    config, log = load_config(folder / 'config.yaml'), read_log(folder / 'log.jsonl')
    stages = list(config.get('stages') or {})
    done, base, last = 0, 0, None
    psnr: dict[str, float] = {}
    best, curve, losses, parameters = None, [], [], None
    for entry in log:
        parameters = entry.get('parameters', parameters)
        stage, step = entry.get('stage'), entry.get('step')
        if stage is None or step is None or 'start' in entry:
            continue
        if stage != last:
            base, last, best = done, stage, None
        done = max(done, base + step)
        if 'loss' in entry:
            losses.append((base + step, entry['loss']))
        if entry.get('psnr'):
            psnr = entry['psnr']
            curve.append((base + step, psnr['mean']))
            best = psnr['mean'] if best is None else max(best, psnr['mean'])
    return Summary(
        name=str(folder),
        config=config,
        finished=bool(stages) and (folder / f'{stages[-1]}.pth').is_file(),
        stage=last,
        steps=done,
        psnr=psnr,
        best=best,
        seconds=working_seconds(log),
        parameters=parameters,
        curve=curve,
        losses=losses,
    )


def read_log(path: Path) -> list[dict]:
    """The entries of a log; the beginning of a last line that a killed run left is passed over."""
    try:
        lines = path.read_text(encoding='utf-8').split('\n')
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f'{path}: cannot be read ({error})') from error
    entries = []
    for number, line in enumerate(lines[:-1]):
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise UserError(f'{path}: line {number + 1} is no JSON') from error
        if not isinstance(entry, dict):
            raise UserError(f'{path}: line {number + 1} is no JSON object')
        entries.append(entry)
    return entries


def working_seconds(log: Sequence[dict]) -> float:
    """The time from each start to the last entry before the next one."""
    total, began, ended = 0.0, None, None
    for entry in log:
        try:
            now = datetime.fromisoformat(entry['time'])
        except (KeyError, TypeError, ValueError):
            continue
        if 'start' in entry and began and ended:
            total, began = total + (ended - began).total_seconds(), None
        began, ended = began or now, now
    return total + (ended - began).total_seconds() if began and ended else 0.0


def table(runs: Sequence[Summary]) -> str:
    """`table_rows` as a Markdown table."""
    head, *rows = table_rows(runs)
    return '\n'.join(f'| {" | ".join(row)} |' for row in (head, ['---'] * len(head), *rows))


def table_rows(runs: Sequence[Summary]) -> list[list[str]]:
    """A row of names and then one a run, one that is not finished marked; runs that differ in their seed alone have a
    row of their own with mean and standard deviation."""
    sets = list(dict.fromkeys(name for run in runs for name in run.psnr if name != 'mean'))
    rows = [['run', *(f'PSNR {name}' for name in sets), 'mean', 'best', 'steps', 'seconds', 'parameters']]
    for run in runs:
        numbers = [run.psnr.get(name) for name in (*sets, 'mean')] + [run.best]
        scores = ['' if number is None else f'{number:.3f}' for number in numbers]
        name = run.name if run.finished else f'{run.name} (not finished)'
        rows.append([name, *scores, str(run.steps), f'{run.seconds:.0f}', str(run.parameters or '')])
    for name, same in seed_sweeps(runs):
        of_seeds = []
        for key in (*sets, 'mean'):
            values = [run.psnr[key] for run in same if key in run.psnr]
            of_seeds.append(f'{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}' if values[1:] else '')
        seconds = statistics.mean(run.seconds for run in same)
        more = f'{len(same) - 1} more seed{"s" * (len(same) > 2)}'
        rows.append([f'{name} and {more}', *of_seeds, '', '', f'{seconds:.0f}', ''])
    return rows


def seed_sweeps(runs: Sequence[Summary]) -> list[tuple[str, list[Summary]]]:
    """Finished runs whose configs differ in `seed` alone, two and more, with the name of the first."""
    groups: list[list[Summary]] = []
    for run in runs:
        for group in groups:
            if {key for key, _, _ in changes(group[0].config, run.config)} == {'seed'}:
                group.append(run)
                break
        else:
            groups.append([run])
    finished = [[run for run in group if run.finished] for group in groups]
    return [(group[0].name, group) for group in finished if len(group) > 1]


def plot(runs: Sequence[Summary], path: Path) -> None:
    """Write `curves` of the runs to `path`. Raises UserError if it cannot be written."""
    try:
        curves(runs).savefig(path, bbox_inches='tight', dpi=150)
    except (OSError, ValueError) as error:
        raise UserError(f'{path}: cannot be written ({error})') from error


def curves(runs: Sequence[Summary], loss: bool = False) -> Any:
    """A figure of matplotlib with the validations of the runs, mean PSNR over steps; with `loss`, that as well."""
    from matplotlib.figure import Figure  # here, since it is slow and few programs need it

    figure = Figure(figsize=(12 if loss else 8, 5))
    left, *right = figure.subplots(1, 1 + loss, squeeze=False)[0]
    for run in runs:
        if run.curve:
            left.plot(*zip(*run.curve), marker='.', label=run.name)
        for axes in right if run.losses else ():
            axes.semilogy(*zip(*run.losses))
            axes.set(xlabel='steps', ylabel='loss')
    left.set(xlabel='steps', ylabel='mean PSNR of the validation sets, dB')
    if left.lines:
        left.legend(fontsize='small')
    return figure
