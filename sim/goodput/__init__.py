"""Trainer logs: read, split, calibrated."""
