"""Kubernetes v1 types, quantities, selectors. Words, not logic: nothing of ours is imported here."""
