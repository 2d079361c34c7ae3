"""The single writer: mirror of the core, membership, plans, release, mending and recovery."""
