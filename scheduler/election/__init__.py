"""Who leads: at most one scheduler, chosen in ZooKeeper, and fenced by an epoch that only grows.

    gantry scheduler ── the parent: small, owns the session and the candidacy (supervisor, candidacy)
         └─ the child: the scheduler proper; is told over a socket whether it leads (link)

Why two processes: ZooKeeper notices a dead process only when its session has timed out. A parent that has nothing to
crash over notices at once that its child died, and gives the leadership away. Kill the parent, and the child closes
the session in its place. Only the loss of the machine, or of both, takes the session timeout.

What it is not: it does not make two leaders impossible by itself, no election can. The store does: every write names
the epoch, and those of an old one are refused.
"""
