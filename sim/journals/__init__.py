"""A live journal as tables, and a live cluster that goes on in the simulator."""
