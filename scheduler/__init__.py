"""The scheduler. Its core, and the simulator's engines, run compiled where they can."""

from scheduler import compiled

compiled.install()
