"""Lists of system calls, executed by a program or function of some hundred bytes instead of a copy of this process.

`assemble`: lists as bytes. `run`: starting the program. `init`, `app`: the lists of a pod's init and of an app's start.
"""

from executor.stage1.machine.app import Prelude, Start, System, start
from executor.stage1.machine.init import Program, first, second
from executor.stage1.machine.run import REPORT, SOURCE, Machine, Spawn, get, readable

__all__ = [
    "REPORT",
    "SOURCE",
    "Machine",
    "Prelude",
    "Program",
    "Spawn",
    "Start",
    "System",
    "first",
    "get",
    "readable",
    "second",
    "start",
]
