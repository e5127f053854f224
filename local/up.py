"""`gantry up`: a whole cluster on one machine, until Ctrl-C.

    gantry up ── setpriv --pdeathsig ── unshare --pid --mount ── the inside (local/cluster.py, process 1)
        │                                                             ├─ gantry master
        └─ afterwards, and before the next start:                     ├─ gantry agent … ── gantry executor ── pods
           removes the cgroups (local/leftovers.py)                   └─ gantry scheduler

The cluster lives in a process and a mount namespace of its own. However `gantry up` ends (Ctrl-C, kill -9, a crash),
the kernel ends every process in there and drops every mount; only cgroups, which the kernel keeps, need collecting.
"""

import argparse
import fcntl
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TextIO

from local import cluster, leftovers, zookeeper
from local.settings import DEFAULT_RESOURCES, Settings, free_port, write_token
from shared.mesos.resources import Resources, parse_attributes

INSIDE = "GANTRY_UP_INSIDE"  # set for the process inside the namespaces


class UpError(Exception):
    """The cluster cannot be started; the message says why and what to do, in one line."""


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="gantry up",
        description="Run an embedded Mesos master, some agents and the Gantry scheduler on this machine until Ctrl-C.",
    )
    result.add_argument(
        "--agents", type=int, default=1, metavar="N", help="how many Mesos agents (default: 1)"
    )
    result.add_argument(
        "--agent-resources",
        default=DEFAULT_RESOURCES,
        metavar="R",
        help=f"of each agent (default: {DEFAULT_RESOURCES})",
    )
    result.add_argument(
        "--agent-attributes", default="", metavar="A", help="of each agent, as 'rack:r1;zone:a'"
    )
    result.add_argument(
        "--device-dir",
        type=Path,
        default=Path("/dev"),
        metavar="DIR",
        help="where pods' GPUs are, as nvidia0, nvidiactl, … (default: %(default)s)",
    )
    result.add_argument(
        "--image-config", type=Path, metavar="FILE",
        help="the executors' settings for images, TOML: registries, logins, who has to have signed what, stage1",
    )  # fmt: skip
    result.add_argument(
        "--executor-options", default="", metavar="OPTIONS",
        help="more flags of gantry executor, as in a shell",
    )  # fmt: skip
    result.add_argument(
        "--listen",
        default="127.0.0.1:8080",
        metavar="HOST:PORT",
        help="the API; port 0 picks one (default: %(default)s)",
    )
    result.add_argument(
        "--data-dir", type=Path, default=Path(".gantry"), metavar="DIR", help="all state (default: ./.gantry)"
    )
    result.add_argument(
        "--ha",
        action="store_true",
        help="a real ZooKeeper (Debian's zookeeper) and two schedulers behind one address: kill any of them",
    )
    result.add_argument("--log-level", default="info", choices=("debug", "info", "warning", "error"))
    return result


def parse_listen(text: str) -> tuple[str, int]:
    """`HOST:PORT` or `[IPv6]:PORT` to its parts. Raises UpError."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise UpError(f"--listen {text}: not HOST:PORT")
    return host.strip("[]") or "127.0.0.1", int(port)


def settings_of(args: argparse.Namespace) -> Settings:
    """Check the arguments. Raises UpError naming the one that is wrong."""
    if args.agents < 1:
        raise UpError(f"--agents {args.agents}: a cluster needs at least one agent")
    try:
        Resources.parse(args.agent_resources)
    except ValueError as error:
        raise UpError(f"--agent-resources {args.agent_resources!r}: {error}") from error
    try:
        parse_attributes(args.agent_attributes)
    except ValueError as error:
        raise UpError(f"--agent-attributes {args.agent_attributes!r}: {error}") from error
    if args.ha and (missing := zookeeper.missing()):
        raise UpError(f"--ha: {missing}")
    host, port = parse_listen(args.listen)
    try:
        check_port(host, port)
    except OSError as error:
        raise UpError(
            f"--listen {args.listen}: {error.strerror or error}; choose another port, or end what listens there"
        ) from error
    settings = settings_from(args, (host, port or free_port(host)))
    if settings.other_state.exists():
        raise UpError(
            f"--data-dir {settings.data_dir}: has the state of a cluster {'without' if args.ha else 'with'} --ha, in "
            f"{settings.other_state.name}; go on with that one, or choose another directory"
        )
    return settings


def _words(text: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise UpError(f"--executor-options {text!r}: {error}") from None


def settings_from(args: argparse.Namespace, listen: tuple[str, int]) -> Settings:
    return Settings(
        data_dir=args.data_dir.resolve(),
        listen=listen,
        agents=args.agents,
        agent_resources=args.agent_resources,
        agent_attributes=args.agent_attributes,
        device_dir=args.device_dir.resolve(),
        image_config=None if args.image_config is None else args.image_config.resolve(),
        executor_options=_words(args.executor_options),
        log_level=args.log_level,
        ha=args.ha,
    )


def check_port(host: str, port: int) -> None:
    """Raise OSError when nobody could listen there now."""
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)


def check_machine() -> None:
    """Raise UpError when this machine or user cannot run pods."""
    if os.geteuid() != 0:
        raise UpError("namespaces, mounts and cgroups of pods need root: run it as root (sudo)")
    for tool in ("unshare", "setpriv"):
        if shutil.which(tool) is None:
            raise UpError(f"{tool} is missing: install Debian's util-linux")
    try:
        probe = subprocess.run(
            ["unshare", "--pid", "--mount", "--fork", "true"], capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise UpError(f"unshare: {error.strerror}") from error
    if probe.returncode:
        raise UpError(
            f"this kernel or container forbids new namespaces ({probe.stderr.strip()}); run on the host itself"
        )


def lock(data_dir: Path) -> TextIO:
    """Take the data directory for this process. Raises UpError when another cluster runs in it."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        handle = (data_dir / "lock").open("a+")
    except OSError as error:
        why = "not a directory" if data_dir.is_file() else error.strerror
        raise UpError(f"--data-dir {data_dir}: {why}") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        with handle:
            handle.seek(0)
            holder = handle.read().strip()
        raise UpError(
            f"--data-dir {data_dir}: process {holder} runs a cluster there; end it, or choose another"
        ) from error
    handle.truncate(0)
    handle.write(f"{os.getpid()}\n")
    handle.flush()
    return handle


def banner(settings: Settings) -> None:
    agents = f"{settings.agents} agent{'s' if settings.agents > 1 else ''}"
    if settings.ha:
        agents += f", {cluster.SCHEDULERS} schedulers and a ZooKeeper"
    cluster.say(f"the cluster is ready: {agents}, the API at {settings.server}")
    cluster.say(
        f"\n  export KUBECONFIG={settings.kubeconfig}\n"
        "  kubectl create -f examples/hello.yaml\n  kubectl logs -f hello\n"
    )
    cluster.say("Ctrl-C stops it; what you created is still there at the next gantry up")


def inside(settings: Settings) -> int:
    """Process 1 of the cluster's namespaces."""
    try:
        cluster.run(settings, lambda: banner(settings))
    except cluster.ClusterError as error:
        print(f"gantry up: error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"gantry up: error: {_where(error, settings.data_dir)}", file=sys.stderr)
        return 1
    return 0


def _where(error: OSError, data_dir: Path) -> str:
    """What the system refused, in one line: a full disk, mostly."""
    return f"--data-dir {data_dir}: {error.filename2 or error.filename or 'write'}: {error.strerror or error}"


def outside(settings: Settings, argv: list[str]) -> int:
    """Start the inside in its namespaces, pass signals on, collect the cgroups when it has ended."""
    write_token(settings)
    leftovers.collect(settings.cgroups_prefix)
    host, port = settings.listen
    command = [
        "setpriv",
        "--pdeathsig",
        "KILL",
        "unshare",
        "--pid",
        "--mount",
        "--propagation=slave",  # mounts of this machine that come later are seen, as pods may want (mountPropagation)
        "--mount-proc",
        "--fork",
        "--kill-child=KILL",
    ]
    command += [sys.executable, "-m", "gantry", "up", *argv]
    environment = os.environ | {INSIDE: f"[{host}]:{port}" if ":" in host else f"{host}:{port}"}
    signal.pthread_sigmask(signal.SIG_BLOCK, cluster.SIGNALS)
    child = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        while child.poll() is None:
            received = signal.sigwait(cluster.SIGNALS)
            if received != signal.SIGCHLD:
                cluster.say("\nstopping the cluster")
                stop_inside(child)
    finally:
        child.kill()
        child.wait()
        leftovers.collect(settings.cgroups_prefix)
    return child.returncode if child.returncode >= 0 else 1


def stop_inside(unshare: "subprocess.Popen[bytes]") -> None:
    """Send SIGTERM to the inside, the only child of `unshare` (which itself does not pass signals on)."""
    children = Path(f"/proc/{unshare.pid}/task/{unshare.pid}/children").read_text().split()
    for pid in children:
        os.kill(int(pid), signal.SIGTERM)
    if not children:
        unshare.kill()


def main(argv: list[str]) -> int:
    """`gantry up`; the exit code: 0 after Ctrl-C, 1 when the cluster cannot start or go on, 2 for bad arguments."""
    args = parser().parse_args(argv)
    if listen := os.environ.pop(INSIDE, None):
        return inside(settings_from(args, parse_listen(listen)))
    try:
        check_machine()
        held = lock(args.data_dir.resolve())
        with held:
            return outside(settings_of(args), argv)
    except UpError as error:
        print(f"gantry up: error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"gantry up: error: {_where(error, args.data_dir)}", file=sys.stderr)
        return 1
