"""The life of one pod, pure: events in, effects out.

    runner ──event, now──▶ step(state, event, now) ──▶ new state, effects ──▶ runner performs them
       ▲                                                                          │
       └──────────────── what became of them, as events ──────────────────────────┘

Nothing here reads a clock, a file or the environment, and nothing here waits. `states` has the tables of what may
follow what, `spec` the facts of the pod that matter, `step` the decisions, `status` what the world is told.
"""
