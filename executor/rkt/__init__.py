"""`gantry rkt …`: rkt's command line on our store, pods and stages; no daemon, no Mesos (docs/rkt.md).

One module a group of verbs, imported when a verb of it is used: that is what keeps short commands short. Facts about
flags, texts and exit codes are those of rkt 1.30 (`Documentation/subcommands`, `rkt/*.go`, `api/v1/json.go`).
"""
