"""People's image files: reading and writing them, their sizes, and what is drawn from them."""
