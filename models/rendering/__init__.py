"""Rendering an image at any size: where pixels lie, the models' interface, tiles, ensembles."""
