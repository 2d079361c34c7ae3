"""Reports, pictures and comparisons of runs."""
