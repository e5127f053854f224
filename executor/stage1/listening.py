"""Sockets that an app gets with its start, as from systemd: descriptors from 3 on, LISTEN_FDS (sd_listen_fds(3))."""

import os
from typing import TYPE_CHECKING, Final

from executor.stage1 import seccomp
from executor.stage1.ops import StageError
from executor.stage1.plan import seccomp_filter

if TYPE_CHECKING:
    from executor.stage1.manifest import App, Pod
    from executor.stage1.process import Process

MOST: Final = 32
_CALLS: Final = ("dup3", "readlinkat") if os.uname().machine == "aarch64" else ("dup2", "readlinkat")
"""What it takes to hand them over when the app's filter of system calls is there already (machine/app.py)."""


def given(process: "Process", pod: "Pod", app: "App", names: tuple[str, ...]) -> "Process":
    """The app's process with sockets of these names. LISTEN_PID is not known yet. Raises StageError."""
    if len(names) > MOST:
        raise StageError(f"start {app.name}: {len(names)} sockets are more than {MOST}")
    if strange := [name for name in names if not name or ":" in name or not name.isprintable()]:
        raise StageError(f"start {app.name}: {strange[0]!r} is no name of a socket")
    variables = (("LISTEN_FDS", str(len(names))), ("LISTEN_FDNAMES", ":".join(names)))
    process = process._replace(environment=(*process.environment, *variables), sockets=len(names))
    if (wanted := seccomp_filter(pod, app)) is None:
        return process
    try:
        return process._replace(seccomp=seccomp.compile_filter(seccomp.allowing(wanted, _CALLS)))
    except seccomp.SeccompError as error:
        raise StageError(f"app {app.name}: {error}") from None
