"""Many runs: studies, plans, searches and sweeps."""
