"""Pods' networks. The one door to pyroute2; what is imported often (`namespaces`) does without it."""
