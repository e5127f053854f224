"""The exit codes of `gantry scheduler`, on which outer supervisors may rely (see `flags.EPILOG`)."""

from typing import Final

OK: Final = 0
BUG: Final = 1
USAGE: Final = 2
LISTEN: Final = 3
STORE: Final = 4
MESOS: Final = 5
LOST: Final = 6
