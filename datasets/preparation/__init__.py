"""Obtaining datasets: downloads, and files in archives."""
