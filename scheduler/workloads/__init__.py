"""What users' objects mean: which pods are a gang, its size, and where it may go."""
