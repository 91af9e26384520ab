"""People's image files: reading and writing them, their sizes, and what is drawn from them."""

from datasets.pictures.image_io import Picture, read_image, write_image  # noqa: F401
