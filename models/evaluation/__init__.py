"""Evaluation: metrics, sets of images, and the loop over them."""
