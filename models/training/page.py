"""The page of a run, `report.html` in its folder: state, curves, pictures of the validations, config; one file that can
be sent to somebody."""

import base64
import html
import io
import re
from pathlib import Path
from typing import Any

import torch
import yaml
from torchvision.transforms.functional import to_pil_image

from models.training.records import writing
from models.training.summary import Summary, curves, summarise, table_rows
from utils import atomic_path, write_text

PAGE = 'report.html'
STRIPS = 'strips'  # the folder of a run in which the pictures are
STYLE = (
    'body{font:16px sans-serif;max-width:60em;margin:2em auto;padding:0 1em}table{border-collapse:collapse}'
    'td,th{border:1px solid #ccc;padding:.2em .6em}img,svg{max-width:100%}pre{background:#f4f4f4;padding:1em;'
    'overflow:auto}'
)


def write_strips(folder: Path, stage: str, pictures: dict[str, torch.Tensor]) -> None:
    """Keep the pictures of a stage's last validation, `(3, h, w)` in [0, 1] by set, in the run's folder. Raises
    UserError if they cannot be written."""
    with writing(folder / STRIPS):
        (folder / STRIPS).mkdir(exist_ok=True)
        for name, picture in pictures.items():
            with atomic_path(folder / STRIPS / f'{stage} {name}.png') as temporary:
                to_pil_image(picture).save(temporary)


def write_page(folder: Path) -> None:
    """Write the page of the run in `folder`, of what is there. Raises UserError if its config or log cannot be read, or
    the page cannot be written."""
    run = summarise(folder)
    head = html.escape(f'{folder.name}{"" if run.finished else " (not finished)"}')
    parts = [f'<h1>{head}</h1>', as_table(table_rows([run])), as_svg(run)]
    parts += [
        f'<h2>{html.escape(path.stem)}</h2><p>LR, bicubic, output, original</p>{as_image(path)}'
        for path in pictures_of(folder, run)
    ]
    parts += [f'<h2>Config</h2><pre>{html.escape(yaml.safe_dump(run.config, sort_keys=False))}</pre>']
    page = f'<!doctype html><meta charset="utf-8"><title>{head}</title><style>{STYLE}</style>'
    write_text(folder / PAGE, '\n'.join([page, *parts]))


def pictures_of(folder: Path, run: Summary) -> list[Path]:
    """The pictures of the run in the order of its stages."""
    stages = list(run.config.get('stages') or {})
    found = sorted((folder / STRIPS).glob('[!.]*.png'))
    order = {path: path.stem.rpartition(' ')[0] for path in found}
    return sorted((path for path in found if order[path] in stages), key=lambda path: stages.index(order[path]))


def as_table(rows: list[list[str]]) -> str:
    lines = (''.join(f'<td>{html.escape(cell)}</td>' for cell in row) for row in rows)
    return f'<table>{"".join(f"<tr>{line}</tr>" for line in lines)}</table>'


def as_svg(run: Summary) -> str:
    """PSNR and loss over the steps, as an element of the page."""
    figure, out = curves([run], loss=True), io.StringIO()
    figure.savefig(out, format='svg', bbox_inches='tight')
    return re.sub(r'^.*?(?=<svg)', '', out.getvalue(), flags=re.DOTALL)  # without XML's declaration


def as_image(path: Path) -> Any:
    return f'<img src="data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}">'
