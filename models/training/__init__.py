"""Training: a run, its stages, its objective, several devices, and what it reports."""
