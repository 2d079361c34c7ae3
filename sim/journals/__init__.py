"""A live journal as tables, and a live cluster continued in the simulator."""
