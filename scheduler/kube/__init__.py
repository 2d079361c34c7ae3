"""Kubernetes as bytes: API client, watches, lease and typed objects."""
