"""Flavor nspawn: systemd-nspawn makes the container, our code starts the apps in it, as in flavor linux.

    launcher ─▶ keeper (init's place, on the host) ─▶ systemd-nspawn ─▶ the container's pid 1: the pause program
                   └─▶ holder: in the container's namespaces, with the pod's own root; what starters enter

So machinectl knows the pod where systemd runs, and an app is set up by the same operations as anywhere. The keeper's
death is nspawn's, nspawn's is pid 1's (PR_SET_PDEATHSIG), and pid 1's is the end of all that is in there.
"""

import os
import select
import signal
import socket
from typing import Final

from executor.stage1 import caps, channel, children, ops, pause, plan, syscalls
from executor.stage1.ops import StageError

PROGRAM: Final = "systemd-nspawn"
PACKAGE: Final = "systemd-container"
_START_SECONDS: Final = 30.0
_LAST_WORDS: Final = 4096
_RUN: Final = "/run"


def why_not() -> str:
    """Why there is no such container here; "" when there is."""
    if not any(os.access(f"{place}/{PROGRAM}", os.X_OK) for place in os.defpath.split(":") if place):
        return f"there is no {PROGRAM}: install {PACKAGE}"
    if pause.image() is None:
        return f"flavor nspawn has no init for {os.uname().machine}: x86_64 is needed"
    return ""


def command(root: str, machine: str, hostname: str, *, host_network: bool) -> list[str]:
    """The container: its tree holds nothing but the pause program, which gets no capability at all.

    Registered with machined where systemd runs, in the cgroup that we are in (`--keep-unit`): the agent's limits hold.
    """
    register = ["--register=yes"] if registers() else ["--register=no"]
    return [
        *(PROGRAM, "--quiet", "--settings=no", f"--directory={root}", f"--machine={machine}", "--keep-unit", *register),
        *("--console=pipe", "--link-journal=no", "--resolv-conf=off", "--timezone=off", "--private-users=no"),
        *("--drop-capability=all", "--no-new-privileges=yes", f"--hostname={hostname or machine}"),
        *(() if host_network else ("--private-network",)),
        "/init",
    ]  # fmt: skip


def registers() -> bool:
    """Whether systemd runs (sd_booted(3)), so that machined can be told."""
    return os.path.isdir("/run/systemd/system")


def prepare(root: str) -> None:
    """What nspawn wants to find in the tree: something like an operating system, and the program. Raises OSError."""
    for name in ("usr", "etc", "proc", "sys", "dev", "run", "tmp"):
        os.makedirs(f"{root}/{name}", exist_ok=True)
    path = f"{root}/init"
    with open(f"{path}.new", "wb") as file:
        file.write(pause.image() or b"")
    os.chmod(f"{path}.new", 0o755)
    os.replace(f"{path}.new", path)


def machine_name(pod: str) -> str:
    """A name that machined takes: letters, digits, dashes and dots, at most 64."""
    plain = "".join(one if one.isascii() and (one.isalnum() or one in "-.") else "-" for one in pod)
    return f"gantry-{plain}"[:64].rstrip("-.")


def keeper(sock: socket.socket, *, host_network: bool, last_cap: int) -> None:
    """In init's place: starts nspawn for a pod, answers with the holder, and lives as long as the container."""
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    children.close_all_but([sock.fileno()])
    syscalls.set_process_name("gantry-nspawn")
    job, fds = channel.receive(sock)
    if job is None:
        return
    packed, argv = job
    _, *members = fds
    try:
        for file in members:
            os.write(file, b"0")
        nspawn, leader = _start(argv)
        holder = _hold(leader, ops.unpack(packed), host_network=host_network, last_cap=last_cap)
        channel.send(sock, "", [holder])
    except StageError as error:
        channel.send(sock, str(error))
        return
    except OSError as error:
        channel.send(sock, f"{PROGRAM}: {os.strerror(error.errno or 0)}")
        return
    os.waitpid(nspawn, 0)


def _start(argv: list[str]) -> tuple[int, int]:
    """Run nspawn; its pid and a pidfd of the container's pid 1, once that is there. Raises StageError, OSError."""
    if not _is_tmpfs(_RUN):  # it refuses any other; ours is seen by nobody else
        syscalls.unshare(syscalls.CLONE_NEWNS)
        syscalls.mount("tmpfs", _RUN, "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, "mode=755,size=1m")
    name = f"gantry-nspawn-{os.getpid()}-{os.urandom(4).hex()}"  # a network may have several pid namespaces
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices:
        notices.bind("\0" + name)
        words, stderr = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid == 0:
            _execute(argv, f"@{name}", stderr)
        os.close(stderr)
        nspawn = os.pidfd_open(pid)
        try:
            while True:
                ready, _, _ = select.select([notices.fileno(), nspawn], [], [], _START_SECONDS)
                if notices.fileno() in ready:
                    leader = _leader(notices.recv(_LAST_WORDS))
                    if leader:
                        return pid, os.pidfd_open(leader)
                elif nspawn in ready:
                    raise StageError(f"{PROGRAM}: {_said(words) or 'it ended without a word'}")
                else:
                    raise StageError(f"{PROGRAM}: the container was not ready after {_START_SECONDS:.0f} s")
        finally:
            os.close(nspawn)


def _execute(argv: list[str], notices: str, stderr: int) -> None:
    """In the child: nothing of ours but the streams; and nspawn ends with us."""
    try:
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        null = os.open("/dev/null", os.O_RDWR)
        for stream, fd in ((0, null), (1, null), (2, stderr)):
            os.dup2(fd, stream, inheritable=True)
        children.close_all_but([])
        os.execvpe(
            argv[0], argv, {"PATH": os.defpath, "NOTIFY_SOCKET": notices, "SYSTEMD_LOG_TARGET": "console"}
        )
    except OSError as error:
        os.write(2, f"exec {argv[0]}: {error.strerror}".encode())
    finally:
        os._exit(1)


def _leader(notice: bytes) -> int:
    """The pid in nspawn's message that the container runs; 0 when this is another one (nspawn.c, run_container)."""
    fields = dict(line.partition("=")[::2] for line in notice.decode(errors="replace").splitlines())
    return int(fields.get("X_NSPAWN_LEADER_PID", "0"))


def _said(words: int) -> str:
    os.set_blocking(words, False)
    try:
        text = os.read(words, _LAST_WORDS).decode(errors="replace")
    except BlockingIOError:
        return ""
    return " ".join(text.split())


def _hold(leader: int, todo: "list[ops.Op]", *, host_network: bool, last_cap: int) -> int:
    """A process in the container with the pod's own root, to be entered by starters; its pidfd. Raises StageError."""
    ready, report = os.pipe2(os.O_CLOEXEC)
    orphaned, parent = os.pipe2(os.O_CLOEXEC)
    between = os.fork()
    if between == 0:
        try:
            syscalls.setns(
                leader,
                syscalls.CLONE_NEWPID
                | syscalls.CLONE_NEWIPC
                | syscalls.CLONE_NEWUTS
                | (0 if host_network else syscalls.CLONE_NEWNET),
            )
            pid = os.fork()  # only a child is in another pid namespace
            if pid == 0:
                os.close(parent)
                _become_holder(todo, report, orphaned, host_network=host_network, last_cap=last_cap)
            os.write(report, f"{pid}\n".encode())
        except OSError as error:
            os.write(report, f"0\nenter the container: {error.strerror}".encode())
        finally:
            os._exit(0)
    os.close(report)
    os.close(orphaned)
    os.waitpid(between, 0)
    os.close(parent)  # only now: a process closes its files before its children get another parent
    with open(ready, encoding="utf-8") as file:  # until the holder has become the pause program, or has died
        number, _, wrong = file.read().partition("\n")
    if wrong or number in ("", "0"):
        raise StageError(wrong or "the container's holder died")
    return os.pidfd_open(int(number))


def _become_holder(
    todo: "list[ops.Op]", report: int, orphaned: int, *, host_network: bool, last_cap: int
) -> None:
    """Dies with its parent once it is the pause program: so it waits until that is the launcher (our subreaper)."""
    text = ""
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        context = ops.Context({})
        ops.execute(plan.sandbox_plan("nspawn", host_network=host_network), context)
        caps.limit_bounding_set(0, last_cap)
        null = os.open("/null", os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        ops.execute(todo, context)
        caps.limit_own_sets(0)
        os.read(orphaned, 1)
        pause.become(pause.image() or b"")
    except StageError as error:
        text = str(error)
    except OSError as error:
        text = f"become the holder: {error.strerror}"
    finally:
        os.write(report, text.encode())
        os._exit(1)


def _is_tmpfs(path: str) -> bool:
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        kinds = [line.partition(" - ")[2].split()[0] for line in file if line.split()[4] == path]
    return bool(kinds) and kinds[-1] == "tmpfs"
