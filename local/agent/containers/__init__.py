"""Containers of executors: their cgroups, their processes, what is fetched into their sandboxes."""
