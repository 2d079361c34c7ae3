"""Events and decisions as lines: the file, its history, and replay."""
