"""Kubernetes v1 and appc types, quantities, selectors. Imports nothing of ours."""
