"""What a run is made of: config, cluster, control planes, costs and table schemas."""
