"""Compute the cells of a table, image by image, in one process or in several that share the images among them."""

import json
import os
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed

from models.device import described
from models.evaluation import loop
from models.evaluation.cells import Cell, Options, cell_file, scale_text, set_text, write_cell
from models.evaluation.contenders import output_for
from models.evaluation.metrics import shave
from models.rendering.estimate import announce
from utils import UserError, error_prefix, progress

LONG = timedelta(days=30)  # how long a process waits for the others' images, or for the first to read the set


def join_processes() -> tuple[distributed.Store, int]:
    """The store that the processes started by torchrun have in common, and the number of this one; without torchrun, a
    store of its own and 0."""
    if 'RANK' not in os.environ:
        return distributed.HashStore(), 0
    store, rank, _ = next(distributed.rendezvous('env://'))
    return store, rank


def compute_cells(
    cells: list[Cell], store: distributed.Store, rank: int, folder: Path, device: torch.device, options: Options
) -> None:
    """Compute the cells that have no file in `folder` yet. Whichever process is free takes the next image; the first
    one writes each cell as soon as the values of all its images are in the store. Raises UserError if the processes do
    not see the same images and weights, and as `compute_image` does."""
    if rank == 0:
        (folder / 'cells').mkdir(parents=True, exist_ok=True)
        store.set('todo', json.dumps([cell.key for cell in cells if not cell_file(folder, cell).exists()]))
    store.wait(['todo'], LONG)
    by_key = {cell.key: cell for cell in cells}
    todo = list(dict.fromkeys(json.loads(store.get('todo'))))
    if not set(todo) <= set(by_key):
        raise UserError('the images or the weights are not those of the first process')
    jobs = [(by_key[key], i) for key in todo for i in range(len(by_key[key].dataset))]
    ready = set()
    with progress(len(jobs), shown=rank == 0) as bar:
        while (job := store.add('jobs', 1) - 1) < len(jobs):
            bar.update(job - bar.n)
            cell, i = jobs[job]
            model = cell.contender.model
            if model and cell.contender not in ready:
                model.to(device)
                model.render(torch.zeros(1, 3, 16, 16, device=device), (32, 32))  # the first call is slow
                ready.add(cell.contender)
                if rank == 0:
                    announce_time(cell, [one for one, _ in jobs], device, options.ensemble)
            values = compute_image(cell, i, device, options) | {'device': device_text(device)}
            store.set(store_keys(cell)[i], json.dumps(values))
            if rank == 0:
                for key in [key for key in todo if store.check(store_keys(by_key[key]))]:
                    write_cell(folder, by_key[key], stored_values(by_key[key], store), options)
                    todo.remove(key)
        bar.update(len(jobs) - bar.n)
    if rank == 0:
        for key in todo:
            store.wait(store_keys(by_key[key]), LONG)
            write_cell(folder, by_key[key], stored_values(by_key[key], store), options)


def compute_image(cell: Cell, i: int, device: torch.device, options: Options) -> dict:
    """The values of image `i` of the cell. Raises UserError if the output is not finite."""
    item, where = cell.dataset[i], set_text(cell.set, cell.degrade)
    with error_prefix(f'{cell.contender.label} on {where} at {scale_text(cell.scale)}'):
        if cell.contender.outputs:
            sr = output_for(cell.contender.outputs, cell.dataset, i, item['hr'].shape[-2:])
            values = {'name': item['name'], **loop.compare(sr, item, cell.protocol)}
        else:
            values, sr = loop.evaluate_image(
                cell.contender.model, item, cell.protocol, device, options.eight_bit, options.ensemble
            )
        if not sr.isfinite().all():
            raise UserError(f'{values["name"]}: the model makes values that are not finite')
        shaved = [shave(image, cell.protocol, item['scale']).to(device) for image in (sr, item['hr'])]
        with error_prefix(item['name']):
            return values | {metric.name: metric(*shaved) for metric in options.metrics}


def store_keys(cell: Cell) -> list[str]:
    """The store's keys for the values of the cell's images, one an image."""
    return [f'{cell.key}/{i}' for i in range(len(cell.dataset))]


def stored_values(cell: Cell, store: distributed.Store) -> list[dict]:
    """The values of the cell's images, all of which are in the store."""
    return [json.loads(store.get(key)) for key in store_keys(cell)]


def announce_time(cell: Cell, jobs: list[Cell], device: torch.device, ensemble: bool) -> None:
    """Say about how long the cell's model will take for all of its images among `jobs` (the cell of each image), if
    each takes as long as the first image of this cell."""
    item = cell.dataset[0]
    images = [one.contender for one in jobs].count(cell.contender) / int(os.environ.get('WORLD_SIZE', 1))
    lr, size = item['lr'][None].to(device), item['hr'].shape[-2:]
    announce(cell.contender.label, cell.contender.model.render, lr, size, images * (8 if ensemble else 1))


def device_text(device: torch.device) -> str:
    """What the seconds were measured on."""
    if device.type == 'cuda':
        return described(device)
    return f'{device} (threads: {torch.get_num_threads()})'
