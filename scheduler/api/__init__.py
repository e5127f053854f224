"""The Kubernetes API over HTTP: verbs, watches, patches, tables, discovery. Knows resources only as `Resource`s."""
