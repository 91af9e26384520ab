"""Parts of a model that are not trained for the first steps of a stage."""

from collections.abc import Mapping
from typing import Any

from models.weights.parts import check_parts, longest_part
from utils import UserError


class Freezing:
    """Which parameters of `model` are trained at a step: a function of the step alone, so nothing is to be remembered.

    `steps`: parts of the model to how many steps of the stage they are left as they are; the longest part that holds a
    parameter counts. Of frozen parameters no gradient is computed, and the optimizer, which has to know them already,
    passes over them; batch norm's statistics are not frozen.
    Raises UserError for parts that the model does not have, and if nothing would be trained.
    """

    def __init__(self, model: Any, steps: Mapping[str, int]):
        parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        check_parts(steps, (name for name, _ in model.named_parameters()), 'freeze')
        parts = {name: longest_part(name, steps) for name in parameters}
        self.until = [(parameters[name], steps[part]) for name, part in parts.items() if part is not None]
        if parameters and len(self.until) == len(parameters):
            raise UserError('freeze: nothing is left to train')

    def at(self, step: int) -> bool:
        """Freeze what is frozen at `step`, and nothing else; whether that changes anything."""
        changed = False
        for parameter, until in self.until:
            changed |= parameter.requires_grad != (step >= until)
            parameter.requires_grad_(step >= until)
        return changed

    def end(self) -> None:
        """Freeze nothing any more."""
        for parameter, _ in self.until:
            parameter.requires_grad_(True)
