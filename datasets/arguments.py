"""Checks of what configs state, which may be anything."""

from numbers import Real
from pathlib import Path

from utils import UserError


def check_paths(dataset, **paths):
    """Raise UserError for a path that is none; `dataset` is the name of what takes it."""
    for key, value in paths.items():
        if not isinstance(value, (str, Path)):
            raise UserError(f'{dataset}: {key} is the path of a file or folder, not {value!r}')


def check_counts(dataset, lowest=1, **counts):
    """Raise UserError for what is no whole number from `lowest` up."""
    for key, value in counts.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < lowest:
            raise UserError(f'{dataset}: {key} is a whole number from {lowest} up, not {value!r}')


def check_numbers(dataset, **numbers):
    """Raise UserError for what is no number."""
    for key, value in numbers.items():
        if not isinstance(value, Real) or isinstance(value, bool):
            raise UserError(f'{dataset}: {key} is a number, not {value!r}')
