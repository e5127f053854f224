"""What the embedded master and agent share: Mesos' messages, HTTP refusals and event streams.

Not the internal link between the two (`local.link`), and no behaviour of either.
"""
