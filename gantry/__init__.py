"""The `gantry` program: one console script, its subcommands are the rooms' own `main` functions."""

__version__ = "0.1.0"
