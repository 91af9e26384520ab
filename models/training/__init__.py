"""Training: a run, its stages, its objective, several devices, and what it reports."""

from models.training.run import Run  # noqa: F401
