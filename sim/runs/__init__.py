"""One run: experiment, folder, metrics, summary and timeline."""
