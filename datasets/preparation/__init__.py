"""Obtaining data sets: downloads, and files in archives."""
