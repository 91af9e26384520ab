"""People's image files: reading, resizing and writing them, output sizes, and figures drawn from them."""

from datasets.pictures.image_io import Picture, read_image, write_image  # noqa: F401
