"""`gantry agent`'s flags, spelled as mesos-agent spells them."""

import argparse
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local.agent.containers.isolation import SUBSYSTEMS, subsystems
from local.flags import duration, ip_address, port, positive
from shared.mesos.resources import Resources, parse_attributes


@dataclass(frozen=True)
class Flags:
    """Durations are seconds."""

    master: tuple[str, int]
    work_dir: Path
    ip: str
    port: int
    hostname: str
    resources: Resources
    attributes: tuple[dict[str, Any], ...]
    launcher: str | None
    cgroups_hierarchy: Path
    cgroups_root: str
    isolation: tuple[str, ...]
    executor_registration_timeout: float
    executor_reregistration_timeout: float
    executor_shutdown_grace_period: float
    recovery_timeout: float
    registration_backoff_factor: float
    gc_delay: float
    switch_user: bool
    log_level: str


def _parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="gantry agent",
        description="An embedded Mesos agent for one machine: the v1 executor HTTP API in JSON.",
        epilog="SIGTERM and SIGINT leave the executors running, for the next agent with this work_dir to recover; "
        "SIGUSR1 ends them, unregisters and exits.",
    )
    add = result.add_argument
    add("--master", type=endpoint, required=True, metavar="HOST:PORT")
    add("--work_dir", type=Path, required=True, metavar="DIR", help="checkpoints and sandboxes")
    add("--ip", type=ip_address, default="127.0.0.1", help="address to listen on (default: %(default)s)")
    add("--port", type=port, default=5051, help="0 takes a free one, see work_dir/endpoint (default: 5051)")
    add("--hostname", help="what is offered (default: the IP address)")
    add(
        "--resources",
        default="",
        metavar="R",
        help="'cpus:4;mem:8192;disk:20000;ports:[31000-32000]' or JSON",
    )
    add("--attributes", default="", metavar="A", help="'rack:r1;os:debian'")
    add("--launcher", choices=("linux", "posix"), help="default: linux with cgroups as root, else posix")
    add("--cgroups_hierarchy", type=Path, default=Path("/sys/fs/cgroup"), metavar="DIR")
    add("--cgroups_root", default="mesos", metavar="NAME", help="default: mesos")
    add(
        "--isolation",
        type=isolation,
        default="cgroups/cpu,cgroups/mem",
        metavar="A,B",
        help=f"of cgroups/{{{','.join(sorted(SUBSYSTEMS))}}} and cgroups/all (default: cgroups/cpu,cgroups/mem)",
    )
    add("--executor_registration_timeout", type=positive, default=60.0, metavar="T", help="default: 1mins")
    add("--executor_reregistration_timeout", type=positive, default=2.0, metavar="T", help="default: 2secs")
    add("--executor_shutdown_grace_period", type=duration, default=5.0, metavar="T", help="default: 5secs")
    add("--recovery_timeout", type=positive, default=900.0, metavar="T", help="default: 15mins")
    add("--registration_backoff_factor", type=positive, default=1.0, metavar="T", help="default: 1secs")
    add(
        "--gc_delay",
        type=positive,
        default=7 * 86400.0,
        metavar="T",
        help="of old sandboxes (default: 1weeks)",
    )
    add("--no-switch_user", dest="switch_user", action="store_false", help="executors run as this user")
    add("--log_level", default="info", choices=("debug", "info", "warning", "error"))
    return result


def endpoint(text: str) -> tuple[str, int]:
    if "://" in text:
        raise argparse.ArgumentTypeError(f"{text}: the embedded agent needs HOST:PORT of a master")
    host, _, number = text.rpartition(":")
    if not host:
        raise argparse.ArgumentTypeError(f"{text}: not HOST:PORT")
    return host.strip("[]"), port(number)


def isolation(text: str) -> tuple[str, ...]:
    try:
        return subsystems(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def detected(work_dir: Path) -> Resources:
    """What the machine has, by Mesos' rules of thumb (src/slave/containerizer/containerizer.cpp)."""
    cpus = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    memory = memory - 1024 if memory > 2048 else memory // 2
    disk = shutil.disk_usage(work_dir).total // 2**20
    disk = disk - 5120 if disk > 10240 else disk // 2
    return Resources.scalars(cpus=cpus * 1000, mem=memory * 1000, disk=disk * 1000) + Resources.parse(
        "ports:[31000-32000]"
    )


def complete(given: Resources, work_dir: Path) -> Resources:
    """The given resources, and what the machine has of the names that are not given."""
    missing = [part for part in detected(work_dir).split() if not part.names() & given.names()]
    return sum(missing, given)


def parse(argv: list[str]) -> Flags:
    """Flags of a command line; exits with 2 and one line on stderr when they are wrong."""
    parser = _parser()
    args = vars(parser.parse_args(argv))
    try:
        given = Resources.parse(args["resources"])
    except ValueError as error:
        parser.error(f"--resources: {error}")
    try:
        args["attributes"] = tuple(parse_attributes(args["attributes"]))
    except ValueError as error:
        parser.error(f"--attributes: {error}")
    args["work_dir"] = args["work_dir"].absolute()
    try:
        args["work_dir"].mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--work_dir: {error}")
    args["resources"] = complete(given, args["work_dir"])
    args["hostname"] = args["hostname"] or args["ip"]
    return Flags(**args)
