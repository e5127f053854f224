"""The Kubernetes API over HTTP: verbs, watches, patches, tables, discovery. Knows resources only as `Resource`s.

    app ─▶ auth, status (errors), forward (to the leader) ─┬▶ read ─▶ watch
                                                           ├▶ write, delete ─▶ commit
                                                           └▶ logs, streaming (to the executors), discovery, …

Requests: `body` (protobuf), `query`, `select`, `patch` (jsonpatch, strategic). Answers: `negotiate`, `table`,
`respond`, `pages`. `context` is what handlers share, `housekeeping` what the API does by itself. Nothing here calls
Mesos.
"""
