"""Facts and state: nodes, gangs, capacity, the queue, and `apply`. Standard library only."""
