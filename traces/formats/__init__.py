"""Readers of jobs files: one module per format, listed in `catalog`."""
