"""Start, watch and end the process of an executor, in a session of its own that outlives this agent.

A shell waits on a pipe until the process is in its cgroups and its pid is on disk, then becomes the executor: an
agent that dies in between leaves nothing behind. Exit is seen through a pidfd, also of processes that an earlier
agent started; only the exit status of those is unknown.

Source: Mesos src/slave/containerizer/mesos/{launcher,linux_launcher}.cpp.
"""

import asyncio
import logging
import os
import pwd
import select
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from local.agent.containers import processes
from local.agent.containers.cgroups import Cgroups
from local.agent.containers.processes import Identity

log = logging.getLogger(__name__)

_SHELL = 'read -r go || exit 125; exec "$@" </dev/null'
_ROUNDS = 2000  # of 5 ms


class LaunchError(Exception):
    """The process cannot be started; one line."""


@dataclass(frozen=True)
class Spec:
    """What to start."""

    container_id: str
    argv: list[str]
    environment: Mapping[str, str]
    sandbox: Path
    user: str | None  # None: as this process


class Placement(Protocol):
    """Where processes go and how they are found again: cgroups, or sessions."""

    def create(self, container_id: str) -> None: ...

    def assign(self, container_id: str, pid: int) -> None: ...

    def update(self, container_id: str, cpus: int, memory: int) -> None: ...

    def destroy(self, container_id: str) -> None: ...


class Sessions:
    """The posix launcher: a container is the session and the descendants of its process."""

    def __init__(self) -> None:
        self._leaders: dict[str, int] = {}

    def create(self, container_id: str) -> None:
        """Nothing to prepare."""

    def assign(self, container_id: str, pid: int) -> None:
        self._leaders[container_id] = pid

    def update(self, container_id: str, cpus: int, memory: int) -> None:
        """Nothing limits a session."""

    def destroy(self, container_id: str) -> None:
        """Blocking. Raises LaunchError when processes survive SIGKILL for ten seconds."""
        leader = self._leaders.pop(container_id, None)
        if leader is None:
            return
        pids: set[int] = set()
        for _ in range(_ROUNDS):
            pids = processes.session_and_descendants(leader)
            if not pids:
                return
            processes.kill_all(pids)
            select.select([], [], [], 0.005)
        raise LaunchError(f"processes {sorted(pids)} of container {container_id} do not end")


def passwd(user: str | None) -> pwd.struct_passwd | None:
    """The entry of a user to switch to; None when there is nothing to switch. Raises LaunchError."""
    if user is None:
        return None
    try:
        entry = pwd.getpwnam(user)
    except KeyError as error:
        raise LaunchError(
            f"Failed to get the user '{user}': there is no such user on this machine"
        ) from error
    if entry.pw_uid == os.geteuid():
        return None
    if os.geteuid() != 0:
        raise LaunchError(f"cannot switch to user '{user}' without being root (see --no-switch_user)")
    return entry


def start(spec: Spec, placement: Placement, checkpoint: Callable[[Identity], None]) -> int:
    """Start the process and return its pid. Raises LaunchError, CgroupError or OSError; then nothing runs."""
    entry = passwd(spec.user)
    switch: dict[str, object] = {}
    if entry is not None:
        groups = os.getgrouplist(entry.pw_name, entry.pw_gid)
        switch = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": groups}
    placement.create(spec.container_id)
    with (spec.sandbox / "stdout").open("ab") as out, (spec.sandbox / "stderr").open("ab") as err:
        if entry is not None:
            for handle in (out, err):
                os.fchown(handle.fileno(), entry.pw_uid, entry.pw_gid)
        process = subprocess.Popen(  # type: ignore[call-overload]  # the switch is optional
            ["/bin/sh", "-c", _SHELL, "sh", *spec.argv],
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=err,
            cwd=spec.sandbox,
            env=dict(spec.environment),
            start_new_session=True,
            **switch,
        )
    assert process.stdin is not None
    try:
        placement.assign(spec.container_id, process.pid)
        identity = Identity.of(process.pid)
        if identity is None:
            raise LaunchError("the process ended at once")
        checkpoint(identity)
        process.stdin.write(b"go\n")
        process.stdin.flush()
    except BaseException:
        process.kill()
        process.wait()
        raise
    finally:
        process.stdin.close()
    process.returncode = 0  # it is reaped through the pidfd, not by subprocess
    return int(process.pid)


def watch(pid: int, *, child: bool, ended: Callable[[int | None], None]) -> Callable[[], None]:
    """Call `ended` with the raw wait status (None: unknown) when the process has ended. Returns a canceller."""
    loop = asyncio.get_running_loop()
    descriptor = os.pidfd_open(pid)

    def readable() -> None:
        cancel()
        status: int | None = None
        if child:
            try:
                _, status = os.waitpid(pid, 0)
            except ChildProcessError:
                log.warning("process %d was reaped by somebody else", pid)
        ended(status)

    def cancel() -> None:
        loop.remove_reader(descriptor)
        os.close(descriptor)

    loop.add_reader(descriptor, readable)
    return cancel


def placement(
    launcher: str | None, hierarchy: Path, root: str, subsystems: tuple[str, ...]
) -> Cgroups | Sessions:
    """The launcher that was asked for, or the best there is. Raises CgroupError when the one asked for is not."""
    if launcher == "posix":
        return Sessions()
    if launcher is None and (os.geteuid() != 0 or not (hierarchy / "freezer" / "cgroup.procs").exists()):
        log.warning(
            "no root or no cgroups (v1) in %s: executors run in plain sessions, without limits", hierarchy
        )
        return Sessions()
    return Cgroups(hierarchy, root, subsystems)
