"""The process that has a pod's mounts and starts its entrypoints. One for each pod; standard library and stage1's
parts.

    executor ◀─socket─▶ holder ─┬─ run (and whatever it starts)
                                └─ enter, stop, app/…: in the same mounts and cgroup

rkt mounted in the host's mount namespace, where every other namespace that was made meanwhile pinned what gc wanted
to remove. Here the mounts are in the holder's: the kernel drops them with the last process. The holder is in no
cgroup of the pod, so that it can kill it: when the executor is gone (the socket closes), and when it is told to end.
It is the subreaper of all that the pod leaves behind.

Requests (JSON, by executor.stage1.channel): `prepare` {steps}; `spawn` {argv, environment, lock, terminal, rlimits,
listening} with the streams and so many sockets, for LISTEN_FDS; `signal` {pid, signum}. Answers {id, …} or
{id, error}. Event: {event: exit, pid, status}.
"""

import errno
import fcntl
import functools
import os
import resource
import select
import signal
import socket
import sys
import termios
import time
from typing import Any, Final

from executor.stage1 import cgroups, channel, ops, syscalls, userns
from executor.stage1.ops.base import IN_ROOT, open_or_make

MS_SHARED: Final = 1 << 20
_KILL_ROUNDS: Final = 500
_EXEC_FAILED: Final = 127
_STREAMS: Final = 3


class HolderError(Exception):
    """A step failed; what was being done, and why."""


def main(argv: list[str]) -> int:
    """argv: the descriptor of the socket and, if the pod's lock is to be inherited, that of the pod's directory."""
    control = socket.socket(fileno=int(argv[0]))
    lock = int(argv[1]) if len(argv) > 1 else -1
    for fd in (control.fileno(), lock):
        if fd >= 0:
            os.set_inheritable(fd, False)
    os.umask(0o022)
    syscalls.set_process_name("gantry-pod")
    syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
    syscalls.unshare(syscalls.CLONE_NEWNS)
    # What the host mounts and unmounts is so here (a mount here must not keep the host's from going); nothing of
    # ours gets there; and what is mounted here later gets to namespaces that a stage1 has made meanwhile.
    syscalls.mount("none", "/", None, syscalls.MS_REC | syscalls.MS_SLAVE)
    syscalls.mount("none", "/", None, syscalls.MS_REC | MS_SHARED)
    Holder(control, lock).serve()
    return 0


class Holder:
    """The loop over the socket and SIGCHLD."""

    def __init__(self, control: socket.socket, lock: int) -> None:
        self._control = control
        self._lock = lock
        self._pod = ""
        self._cgroup: cgroups.PodCgroup | None = None
        self._anchor = -1

    def serve(self) -> None:
        """Until the executor closes its end."""
        woken, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(woken, select.POLLIN)
        while True:
            for fd, _ in poll.poll():
                if fd == woken:
                    os.read(woken, 4096)
                    self._reap()
                elif not self._request():
                    self._end()
                    return

    def _request(self) -> bool:
        try:
            message, fds = channel.receive_json(self._control)
        except OSError:
            return False
        if message is None:
            return False
        try:
            answer = self._perform(message, fds)
        except (HolderError, ops.StageError, cgroups.CgroupError) as error:
            answer = {"error": str(error)}
        except OSError as error:
            answer = {"error": f"{message['do']}: {error.filename or ''}: {os.strerror(error.errno or 0)}"}
        finally:
            for fd in fds:
                os.close(fd)
        self._send({"id": message["id"], **answer})
        return True

    def _perform(self, message: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        match message["do"]:
            case "begin":
                self._pod = message["pod"]
                os.chdir(self._pod)
                version, base, name = message["cgroup"]
                self._cgroup = cgroups.PodCgroup(cgroups.Layout(version, base), name)
                return {}
            case "prepare":
                for step in message["steps"]:
                    prepare(step)
                return {}
            case "anchor":
                before, self._anchor = self._anchor, _anchor(message["root"], message["pid"])
                if before >= 0:
                    os.kill(before, signal.SIGKILL)
                return {"pid": self._anchor}
            case "spawn":
                return {"pid": self._spawn(message, fds)}
            case "signal":
                _signal(message["pid"], message["signum"], group=message["group"])
                return {}
            case other:
                raise HolderError(f"{other}: no such request")

    def _spawn(self, message: dict[str, Any], fds: list[int]) -> int:
        if self._cgroup is None:
            raise HolderError("spawn: the pod has not begun")
        failed, fail = os.pipe2(os.O_CLOEXEC)
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            _become(message, fds, self._lock, self._cgroup.init_members(), fail, parent)
        os.close(fail)
        with open(failed, "rb") as file:
            error = file.read().decode(errors="replace")
        if error:
            os.waitpid(pid, 0)
            raise HolderError(error)
        return pid

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid != self._anchor:
                self._send({"event": "exit", "pid": pid, "status": status})

    def _send(self, message: dict[str, Any]) -> None:
        try:
            channel.send_json(self._control, message)
        except OSError:
            pass  # the executor has gone: the loop notices

    def _end(self) -> None:
        """Nothing of the pod lives on."""
        if self._cgroup is not None:
            for _ in range(_KILL_ROUNDS):
                if self._cgroup.kill():
                    break
                self._reap()
                time.sleep(0.01)
        if self._anchor >= 0:
            os.kill(self._anchor, signal.SIGKILL)


def _signal(pid: int, signum: int, *, group: bool) -> None:
    """To a child that has not been reaped (it is we who reap), or to its process group."""
    try:
        os.kill(-pid if group else pid, signum)
    except ProcessLookupError:
        pass


def _anchor(root: str, network: int | None) -> int:
    """A process that does nothing but to be in the pod's mounts, its root where the volumes are
    (`/proc/PID/root/volume.NAME`), and in the network of the process `network`."""
    parent = os.getpid()
    joined = -1
    if network is not None:
        try:
            joined = os.open(f"/proc/{network}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            pass  # it has ended: so has the pod
    there, arrive = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid:
        os.close(arrive)
        if joined >= 0:
            os.close(joined)
        os.read(there, 1)
        os.close(there)
        return pid
    try:
        signal.set_wakeup_fd(-1)
        if joined >= 0:
            syscalls.setns(joined, syscalls.CLONE_NEWNET)
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == parent:
            os.chroot(root)
            os.chdir("/")
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            syscalls.close_range(0)
            while True:
                signal.pause()
    finally:
        os._exit(1)


def _become(
    message: dict[str, Any], fds: list[int], lock: int, members: tuple[str, ...], fail: int, parent: int
) -> None:
    """In the child: be the program. What goes wrong is written to `fail`, which closes when the program runs."""
    argv = message["argv"]
    step = "prepare a process"
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(_EXEC_FAILED)
        os.setsid()
        count = int(message.get("listening") or 0)
        first = _STREAMS + count
        if len(fds) < first:
            fds = [os.open("/dev/null", os.O_RDONLY), *fds]
        *fds, fail, lock = _above(first, [*fds, fail, lock]) if count else [*fds, fail, lock]
        for number, fd in enumerate(fds):
            os.dup2(fd, number, inheritable=True)
        if message.get("terminal"):
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        step = "join the pod's cgroup"
        for member in members:
            cgroups.write(member, "0")
        for number, soft, hard in message.get("rlimits") or ():
            resource.setrlimit(number, (soft, hard))
        environment = dict(message["environment"])
        kept = sorted({fail, *([lock] if message.get("lock") else [])})
        if message.get("lock"):
            os.set_inheritable(lock, True)
            environment["RKT_LOCK_FD"] = str(lock)
        if count:
            environment |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(count)}
        for fd in kept:
            if fd > first:
                syscalls.close_range(first, fd - 1)
            first = fd + 1
        syscalls.close_range(first)
        step = f"execute {argv[0]}"
        os.execve(argv[0], argv, environment)
    except (OSError, ValueError) as error:
        reason = os.strerror(error.errno or 0) if isinstance(error, OSError) else str(error)
        os.write(fail, f"{step}: {reason}".encode())
    finally:
        os._exit(_EXEC_FAILED)


def _above(first: int, fds: list[int]) -> list[int]:
    """The same ones, where they are not in the way."""
    return [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, first) if fd >= 0 else fd for fd in fds]


# --- what is made and mounted before a stage1 runs ----------------------------------------------------------------


def prepare(step: dict[str, Any]) -> None:
    """One step of stage0's preparation; every one can be done again. Raises OSError, StageError."""
    match step["do"]:
        case "directory":
            _directory(step)
        case "memory":
            os.makedirs(step["target"], exist_ok=True)
            size = f",size={step['size']}" if step["size"] else ""
            owner = f"uid={step['uid'] + step['ids']},gid={step['gid'] + step['ids']}"
            options = f"mode={step['mode']:o},{owner}{size}"
            flags = syscalls.MS_NOSUID | syscalls.MS_NODEV
            _mount(f"a tmpfs on {step['target']}", "tmpfs", step["target"], "tmpfs", flags, options)
        case "below":
            _below(step["source"], step["path"], step["target"])
        case "overlay":
            _overlay(step)
        case "file":
            _file(step["root"], step["path"], step["text"])
        case "mtab":
            _mtab(step["root"])
        case "remove":
            _remove(step["root"], step["path"])
        case "unmount":
            _unmount(step["root"], step["path"])
        case other:
            raise HolderError(f"{other}: no such step")


def _directory(step: dict[str, Any]) -> None:
    if step["target"] in _mapped:
        return  # it is there, and nobody's who is not of the pod
    os.makedirs(step["target"], exist_ok=True)
    os.chown(step["target"], step["uid"], step["gid"])
    os.chmod(step["target"], step["mode"])
    if step.get("kind"):  # a volume
        _map(step["target"], step["ids"])


_mapped: Final[set[str]] = set()
_users = functools.cache(userns.namespace)


def _map(path: str, ids: int) -> None:
    """Let files, here, belong to the pod's own ids, if it has any; on disk they stay whose they are. Once."""
    if not ids or path in _mapped:
        return
    try:
        tree = userns.mapped(path, _users(ids))
        place = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        syscalls.move_mount(tree, place)
    except OSError as error:
        raise HolderError(f"id-map {path}: {os.strerror(error.errno or 0)}") from None
    os.close(tree)
    os.close(place)
    _mapped.add(path)


def _mount(what: str, source: str, target: str, fstype: str, flags: int, data: str) -> None:
    try:
        syscalls.mount(source, target, fstype, flags, data)
    except OSError as error:
        raise HolderError(f"mount {what}: {os.strerror(error.errno or 0)}") from None


def _below(source: str, path: str, target: str) -> None:
    """Mount what lies at `path` in `source` on `target`, never leaving `source`."""
    context = ops.Context({})
    ops.execute([ops.TakeVolume("below", source, path, True)], context)
    tree = context.fds["below"]
    try:
        if os.path.isdir(f"/proc/self/fd/{tree}"):
            os.makedirs(target, exist_ok=True)
        else:
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        place = os.open(target, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            syscalls.move_mount(tree, place)
        finally:
            os.close(place)
    finally:
        os.close(tree)


def _overlay(step: dict[str, Any]) -> None:
    """An image's layers (uppermost first) and what is written to it, at `path` in `root`."""
    for lower in step["lower"]:
        _map(lower, step["ids"])
    info = os.stat(step["lower"][0])
    for directory in (step["upper"], step["work"]):
        os.makedirs(directory, exist_ok=True)
    os.chown(step["upper"], info.st_uid, info.st_gid)
    os.chmod(step["upper"], info.st_mode & 0o7777)
    with _place(step["root"], step["path"]) as place:
        target = f"/proc/self/fd/{place.fd}"
        context = ops.Context({})
        overlay = ops.MountOverlay(
            target, tuple(step["lower"]), step["upper"], step["work"], device_files=True
        )
        try:
            overlay.execute(context)
        except OSError as error:
            where = os.path.join(step["root"], step["path"])
            raise HolderError(f"mount overlay on {where}: {os.strerror(error.errno or 0)}") from None
        finally:
            for fd in context.fds.values():
                os.close(fd)


class _Place:
    """A directory in a root, made when missing; links in it do not lead out of the root."""

    def __init__(self, root: str, path: str, *, make: bool) -> None:
        flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
        top = os.open(root, flags)
        try:
            if make and path:
                self.fd = open_or_make(top, path, IN_ROOT, directory=True)
            else:
                self.fd = syscalls.openat2(top, path or ".", os.O_PATH | os.O_DIRECTORY, IN_ROOT)
        finally:
            os.close(top)

    def __enter__(self) -> "_Place":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)


def _place(root: str, path: str, *, make: bool = True) -> _Place:
    return _Place(root, path, make=make)


def _file(root: str, path: str, text: str) -> None:
    """A new file, in place of whatever is there."""
    with _place(root, os.path.dirname(path)) as place:
        name = os.path.basename(path)
        try:
            os.unlink(name, dir_fd=place.fd)
        except FileNotFoundError:
            pass
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(name, flags, 0o644, dir_fd=place.fd), "w", encoding="utf-8") as file:
            file.write(text)


def _mtab(root: str) -> None:
    """As rkt: `/etc/mtab`, where the image has an `/etc` without one."""
    try:
        with _place(root, "etc", make=False) as place:
            os.symlink("../proc/self/mounts", "mtab", dir_fd=place.fd)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.ELOOP, errno.EXDEV):
            raise


def _remove(root: str, path: str) -> None:
    try:
        with _place(root, os.path.dirname(path), make=False) as place:
            os.unlink(os.path.basename(path), dir_fd=place.fd)
    except FileNotFoundError:
        pass


def _unmount(root: str, path: str) -> None:
    try:
        with _place(root, path, make=False) as place:
            syscalls.umount(f"/proc/self/fd/{place.fd}")
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOENT):  # no mount, or not there
            raise


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
