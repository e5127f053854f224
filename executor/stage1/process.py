"""Builds the app's process: who it is, what it may do, where it stands, what it runs. The only place that does.

Whatever starts a process in a pod (the app itself; exec into it later) ends here, so that both get the same
user, capabilities, environment and working directory: what rkt's `enter` did not (CVE-2019-10144, -10145).

The caller has already put itself into the app's root, namespaces and cgroup. It gives up its privileges here
and only then spawns the app (vfork + exec), so no process with the launcher's powers or descriptors is ever
visible in the pod's pid namespace, not even to an app with CAP_SYS_PTRACE (CVE-2016-9962).
"""

import os
import resource
import signal
import stat
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from executor.stage1 import caps, syscalls, users
from executor.stage1.ops import IN_ROOT, StageError, open_or_make

PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SOCKET: Final = "socket."
"""And a number: what a listening socket is called among the descriptors of a start."""
SIGNALS: Final = tuple(set(range(1, signal.NSIG)) - {signal.SIGKILL, signal.SIGSTOP, 32, 33})


Limit = tuple[int, int, int]
"""Of setrlimit(2): which, soft, hard."""


def make_room() -> Limit:
    """Let this process have as many descriptors as it may: each mount of an app takes one. Returns the limit before."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.RLIMIT_NOFILE, soft, hard


class Process(NamedTuple):
    """One process, as asked for. `capabilities` is a bit mask, None leaves them as they are (flavor fly).

    `rlimits` are as in the manifest. `seccomp` is a compiled filter (see `seccomp`), empty for none. `ids` is the
    first id of the pod's user namespace.
    """

    argv: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    user: str
    group: str
    supplementary_gids: tuple[int, ...]
    directory: str
    capabilities: int | None
    no_new_privileges: bool
    seccomp: bytes = b""
    ids: int = 0
    rlimits: tuple[Limit, ...] = ()
    strict_groups: bool = False
    makes_directory: bool = True
    own_proc: str = ""  # "masked", "whole": it begins a pid namespace of its own, with a /proc of that
    over_proc: tuple[str, ...] = ()  # paths of volumes on that, or below it
    sockets: int = 0  # so many listening ones it gets, from descriptor 3 on, and LISTEN_PID

    def limited(self, limit: "Limit") -> "Process":
        """With a limit that it has when the manifest gives it no other."""
        number, soft, hard = limit
        if soft == hard or any(one[0] == number for one in self.rlimits):
            return self
        return self._replace(rlimits=(*self.rlimits, limit))

    def describe(self) -> str:
        """One line, for people."""
        return f"run {' '.join(self.argv)} as {self.user}:{self.group} in {self.directory}"

    def pack(self) -> tuple[Any, ...]:
        """As plain values, for `marshal`."""
        return tuple(self)


def spawn(
    process: Process, *, last_cap: int, keep: int, user_namespace: int = -1, terminal: bool = False
) -> int:
    """Become who `process` says and start it; returns its pid. Raises StageError.

    `user_namespace` is the pod's, -1 when it has none. With `terminal` the descriptors 0, 1 and 2 are one, which
    becomes the controlling terminal.

    The calling process is of no use afterwards: it has the app's user and capabilities.
    `keep` is a descriptor that stays open here (it is close-on-exec); 0, 1 and 2 become the app's.
    """
    if process.sockets:
        raise StageError(
            f"sockets for an app: not done on {os.uname().machine}, or where no code can be mapped"
        )
    ready = settle(process, (0, 1, 2), user_namespace=user_namespace, terminal=terminal)
    syscalls.close_range(3, keep - 1)
    syscalls.close_range(keep + 1)
    _step("drop privileges", lambda: become(ready.identity, process, last_cap))
    actions: list[tuple[Any, ...]] = []
    if terminal:
        # The first terminal that the leader of a session opens becomes the session's (tty_ioctl(4)).
        actions.append((os.POSIX_SPAWN_OPEN, 0, ready.terminal, os.O_RDWR, 0))
        actions += [(os.POSIX_SPAWN_DUP2, 0, stream) for stream in (1, 2)]
    try:
        return os.posix_spawn(
            ready.program,
            process.argv,
            ready.environment,
            file_actions=actions,
            setsid=True,
            setsigmask=(),
            setsigdef=SIGNALS,
        )
    except (OSError, ValueError) as error:
        raise StageError(f"exec {process.argv[0]}: {_reason(error)}") from None


class Settled(NamedTuple):
    """What the app's root says of a process: who it is, its environment, its program, the path of its terminal."""

    identity: users.Identity
    environment: dict[str, str]
    program: str
    terminal: str


def settle(
    process: Process,
    streams: Sequence[int],
    *,
    root: int = -1,
    user_namespace: int = -1,
    terminal: bool = False,
    look: bool = True,
    files: Sequence[int] = (),
) -> Settled:
    """Give the app its streams, and stand in its working directory; what else there is to know. Raises StageError.

    `user_namespace` is entered, if it is one: for a caller that is of no use afterwards. root: a descriptor of "/", if
    there is one. look: whether a program that was named by its path is there. files: see `users.resolve`.
    """
    if root < 0:
        root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    identity = users.resolve(
        root, process.user, process.group, process.supplementary_gids, strict=process.strict_groups, ids=process.ids,
        files=files,
    )  # fmt: skip
    environment = dict(process.environment)
    _complete(environment, identity, terminal=terminal)
    _step("give the app its streams", lambda: _own_streams(process.ids + identity.uid, streams))
    if user_namespace >= 0:
        _step("enter the user namespace", lambda: syscalls.setns(user_namespace, syscalls.CLONE_NEWUSER))
    _step(f"chdir {process.directory}", lambda: _chdir(root, process.directory, make=process.makes_directory))
    tty = f"/dev/pts/{os.minor(os.fstat(streams[0]).st_rdev)}" if terminal else ""
    program = process.argv[0]
    if look or "/" not in program:
        program = find_program(root, program, environment["PATH"])
    return Settled(identity, environment, program, tty)


def _complete(environment: dict[str, str], identity: users.Identity, *, terminal: bool) -> None:
    """What every program may count on (appc ace.md; rkt-1.30 common/environment.go) and the manifest does not say.

    The user's name is the image's for its id; where it has none there is no USER, instead of a wrong one.
    """
    environment.setdefault("PATH", PATH)
    environment.setdefault("HOME", identity.home)
    environment.setdefault("SHELL", identity.shell)
    if identity.name:
        environment.setdefault("USER", identity.name)
        environment.setdefault("LOGNAME", identity.name)
    if terminal:
        environment.setdefault("TERM", "xterm")


def _reason(error: Exception) -> str:
    return os.strerror(error.errno or 0) if isinstance(error, OSError) else str(error)


def _step(name: str, action: Any) -> None:
    try:
        action()
    except OSError as error:
        raise StageError(f"{name}: {_reason(error)}") from None


def _chdir(root: int, directory: str, *, make: bool) -> None:
    """Through a descriptor without magic links (CVE-2024-21626); made when missing, as runc does, unless it must not
    be (appc aci.md)."""
    if directory == "/":
        os.fchdir(root)
        return
    if make:
        fd = open_or_make(root, directory, IN_ROOT, directory=True)
    else:
        fd = syscalls.openat2(root, directory, os.O_PATH | os.O_DIRECTORY, IN_ROOT)
    os.fchdir(fd)
    os.close(fd)


def find_program(root: int, name: str, search: str) -> str:
    """Path of the program in the root: `name` itself if it has a slash, else the first hit in `search`.

    /proc/self/exe and other magic links are refused: they would name a file of the host (CVE-2019-5736).
    """
    if "/" in name:
        try:
            os.close(syscalls.openat2(_base(root, name), name, os.O_PATH, IN_ROOT))
        except OSError as error:
            raise StageError(f"exec {name}: {os.strerror(error.errno or 0)}") from None
        return name
    for directory in search.split(":"):
        path = f"{directory or '.'}/{name}"
        try:
            fd = syscalls.openat2(_base(root, path), path, os.O_PATH, IN_ROOT)
        except OSError:
            continue
        mode = os.fstat(fd).st_mode
        os.close(fd)
        if stat.S_ISREG(mode) and mode & 0o111:
            return path
    raise StageError(f"exec {name}: executable file not found in $PATH")


def _base(root: int, path: str) -> int:
    """Where a path starts: at the root, or where we stand (which the root contains)."""
    return root if path.startswith("/") else os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def _own_streams(uid: int, streams: Sequence[int]) -> None:
    """Let an unprivileged app open /dev/stdout and /dev/stderr again: its pipes and its terminal belong to it."""
    if uid:
        for fd in streams:
            if stat.S_ISFIFO(os.fstat(fd).st_mode) or (fd == streams[0] and os.isatty(fd)):
                os.fchown(fd, uid, -1)


def become(identity: users.Identity, process: Process, last_cap: int) -> None:
    """Be who the process is to be, in the order that the kernel's rules leave.

    A filter needs CAP_SYS_ADMIN, or no_new_privs, to be installed. It comes as late as possible, for it holds for us
    as well: only dropping the last capabilities follows.
    """
    os.umask(0o022)
    for number, soft, hard in process.rlimits:
        resource.setrlimit(number, (soft, hard))
    if process.capabilities is not None:
        caps.limit_bounding_set(process.capabilities, last_cap)
    os.setgroups(identity.groups)
    os.setresgid(identity.gid, identity.gid, identity.gid)
    keep_caps = bool(process.seccomp) and identity.uid != 0
    if keep_caps:
        syscalls.prctl(syscalls.PR_SET_KEEPCAPS, 1)
    os.setresuid(identity.uid, identity.uid, identity.uid)
    # A change of user makes a process dumpable as the system says; until exec it must not be.
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    if process.no_new_privileges:
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    if process.seccomp:
        if keep_caps:
            caps.limit_own_sets(caps.FOR_SECCOMP)
        syscalls.seccomp_filter(process.seccomp)
    if identity.uid != 0:
        if keep_caps:
            caps.limit_own_sets(0)
    elif process.capabilities is not None:
        caps.limit_own_sets(process.capabilities)
