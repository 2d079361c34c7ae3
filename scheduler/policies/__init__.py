"""What is decided: `decide`, one file per discipline, and the catalog of names."""
