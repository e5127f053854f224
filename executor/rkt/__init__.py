"""`gantry rkt …`: rkt's command line on our store, pods and stages; no daemon, no Mesos (docs/rkt.md).

    cli ─▶ run, prepare, app, images, show, end, enter, export, attach, trust, metadata, completion, …: the verbs
    run ─▶ podflags, apps, lookup (images) ─▶ prepare ─▶ podmanifest ─▶ foreground: the pod, until its end
           foreign, foreignapps: by somebody else's stage1; mutable: apps that come and go
           networks, activation, streams, mux, notify, measured: what the foreground does for it
    control: how other commands reach that process; pods: what is on disk

One module a group of verbs, imported when a verb of it is used: that is what keeps short commands short. Facts about
flags, texts and exit codes are those of rkt 1.30 (`Documentation/subcommands`, `rkt/*.go`, `api/v1/json.go`).
"""
