"""The control plane: Kubernetes API, store, placement on Mesos offers, the life of tasks."""
