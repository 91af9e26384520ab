"""The results of cells as a table, in Markdown and CSV, and as a plot."""

import csv
import io
from pathlib import Path

import numpy as np

from models.evaluation.cells import Cell, set_text
from utils import atomic_path

FORMATS = {'psnr': '.2f', 'seconds': '.3g'}  # of numbers; others have four decimals


def markdown(results: list[dict], metrics: list[str], sources: dict[str, str]) -> str:
    """The table: a row for each set and scale, a column for each model, and how the numbers were measured.

    `results`: cells as `read_cell` returns them, row by row. `metrics`: what is shown of each. `sources`: the package
    that computes a metric, for those that are not this project's own.
    """
    names = {result['model']: result for result in results}
    sizes = (result['parameters'] for result in names.values())
    head = (name if n is None else f'{name} ({n:,} parameters)' for name, n in zip(names, sizes))
    lines = ['| set | scale | ' + ' | '.join(head) + ' |', '|---' * (2 + len(names)) + '|']
    for first in range(0, len(results), len(names)):
        row = results[first : first + len(names)]
        values = (' / '.join(number(result, key) for key in (*metrics, 'seconds')) for result in row)
        where = set_text(row[0]['set'], row[0]['degrade'])
        lines.append(f'| {where} | {row[0]["scale"]} | ' + ' | '.join(values) + ' |')
    devices = dict.fromkeys(image['device'] for result in results for image in result['images'])
    lines += [
        '',
        f'{" / ".join("PSNR (dB)" if name == "psnr" else name.upper() for name in metrics)} / seconds, means of the '
        f"images' values; the seconds are those of the rendering alone, on {'; '.join(devices)}.",
        '',
    ]
    lines += [f'{name.upper()}, of which less is better: {source}, on RGB.' for name, source in sources.items()]
    lines += [''] if sources else []
    for protocol in dict.fromkeys(result['protocol'] for result in results):
        alike = [result for result in results if result['protocol'] == protocol]
        lines += [f'{", ".join(dict.fromkeys(result["set"] for result in alike))}: {protocol}. At', '']
        lines += [f'- {setting}' for setting in dict.fromkeys(result['setting'] for result in alike)] + ['']
    lines += [
        f'- {result["model"]} on {result["set"]} at {result["scale"]}: PSNR is infinite for {equal} of '
        f'{len(result["images"])} images, equal to the original, and so on average'
        for result in results
        if (equal := sum(image['psnr'] == float('inf') for image in result['images']))
    ]
    return '\n'.join(lines).rstrip()


def number(result: dict, key: str) -> str:
    """A number of a cell as text; a dash where there is none, as for the seconds of another program."""
    return format(result[key], FORMATS.get(key, '.4f')) if key in result else '-'


def as_csv(results: list[dict], metrics: list[str]) -> str:
    """A line for each cell, with PSNR, SSIM and the other `metrics`."""
    columns = [
        *('set', 'degrade', 'scale', 'model', 'psnr', 'ssim', *metrics, 'seconds'),
        *('parameters', 'file', 'identity', 'setting', 'protocol'),
    ]
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, extrasaction='ignore', lineterminator='\n')
    writer.writeheader()
    writer.writerows(results)
    return out.getvalue().rstrip('\n')


def plot(path: Path, curves: list[tuple[Cell, dict]]) -> None:
    """Plot PSNR over scale, a line for each model, sets side by side. `curves`: cells with their results. Infinite
    values are left out."""
    from matplotlib.figure import Figure  # here, since it is slow and only the first process plots

    sets = {set_text(cell.set, cell.degrade): None for cell, _ in curves}
    figure = Figure(figsize=(5 * len(sets), 4), layout='constrained')
    for axes, name in zip(figure.subplots(1, len(sets), squeeze=False)[0], sets):
        lines: dict[str, list] = {}
        for cell, result in curves:
            points = lines.setdefault(cell.contender.label, []) if set_text(cell.set, cell.degrade) == name else []
            if result['psnr'] < float('inf'):
                points.append((cell.scale[0], result['psnr']))
        for label, points in lines.items():
            axes.plot(*np.array(sorted(points)).reshape(-1, 2).T, marker='.', label=label)
        axes.set(title=name, xlabel='scale', ylabel='PSNR (dB)')
        axes.grid(alpha=0.3)
        axes.legend()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150)
