"""Queues as tables, and queues of other schedulers read as ours."""
