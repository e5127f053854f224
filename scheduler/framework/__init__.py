"""The Mesos framework: a pure core that decides, and the shell around it that saves and speaks.

    feed (the store's watches) ─┐                  ┌▶ saving: one commit a frame (records, nodeobjects, volumeobjects)
    mesos (driver callbacks) ───┼▶ engine ─▶ core ─┼▶ mesos: calls of the driver (pools, disks), with `supplies`
    nodes (the master's list) ──┘                  └▶ publishing: v1 Events

`reading` turns Mesos' JSON into the core's words, `warm` reads ahead on schedulers that follow, `meter` counts.
"""
