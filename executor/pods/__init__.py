"""Pods on this machine: what is decided (`core`, pure), and what carries it out (`runner`, `pods`)."""
