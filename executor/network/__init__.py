"""Pods' networks: made by CNI plugins and taken down again; and what gives them to a virtual machine.

    selection (--net), config (files) ─▶ plan, with ports ─▶ record (in the pod's directory) ─▶ attachments
    attachments ─▶ plugins ─▶ results        standin: a namespace for DEL when the pod's is gone

`info` is for who only looks, `trial` finds out whether networks can be made here, `taps` makes a machine's interfaces
of a namespace's, `namespaces` is what all need and is imported often. The one door to pyroute2, in functions that use
it.
"""
