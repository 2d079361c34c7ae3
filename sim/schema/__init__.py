"""The inputs and tables of a run: config, cluster, control planes, costs and table schemas."""
