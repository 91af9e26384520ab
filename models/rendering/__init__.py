"""Rendering an image at any size: where pixels lie, the models' interface, tiles, ensembles."""

from models.rendering.implicit import ImplicitModel  # noqa: F401
