"""`gantry restore`."""

from scheduler.backup.commands import restore as main

__all__ = ["main"]
