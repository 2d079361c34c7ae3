"""Simulated time: engines, the life of a job, faults, records and their accounting."""
