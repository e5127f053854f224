"""`gantry backup`."""

from scheduler.backup.commands import backup as main

__all__ = ["main"]
