"""`gantry agent`'s flags, spelled as mesos-agent spells them."""

import argparse
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local.agent.containers.isolation import SUBSYSTEMS, subsystems
from local.agent.estimator import Estimator
from local.flags import add_switch, domain, duration, file_path, ip_address, json_object, port, positive
from local.wire.authentication import read_credential, read_credentials
from local.wire.tls import Contexts, contexts
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
    domain: dict[str, Any] | None
    resource_estimator: Estimator | None
    qos_controller: str
    oversubscribed_resources_interval: float
    executor_environment_variables: dict[str, str]
    authenticate_http_readonly: bool
    authenticate_http_readwrite: bool
    http_credentials: Mapping[str, str]
    """Secrets by principal."""
    jwt_secret_key: bytes | None
    """For executors' tokens, when they need one."""
    credential: tuple[str, str] | None
    """Principal and secret, for the master."""
    tls: Contexts
    log_level: str


def _parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="gantry agent",
        description="An embedded Mesos agent for one machine: the v1 executor HTTP API in JSON.",
        epilog="SIGTERM and SIGINT leave the executors running, for the next agent with this work_dir to recover; "
        "SIGUSR1 ends them, unregisters and exits. TLS as libprocess has it: LIBPROCESS_SSL_ENABLED, _CERT_FILE, "
        "_KEY_FILE, _CA_FILE, _REQUIRE_CLIENT_CERT and _VERIFY_SERVER_CERT in the environment.",
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
    _timeouts(result)
    add(
        "--gc_delay",
        type=positive,
        default=7 * 86400.0,
        metavar="T",
        help="of old sandboxes (default: 1weeks)",
    )
    add("--no-switch_user", dest="switch_user", action="store_false", help="executors run as this user")
    add(
        "--domain",
        type=domain,
        metavar="JSON|FILE",
        help="region and zone of this agent, as Mesos' DomainInfo",
    )
    add(
        "--executor_environment_variables",
        type=variables,
        default={},
        metavar="JSON|FILE",
        help="what executors find in their environment",
    )
    _oversubscription(result)
    _access(result)
    add("--log_level", default="info", choices=("debug", "info", "warning", "error"))
    return result


def _timeouts(result: argparse.ArgumentParser) -> None:
    add = result.add_argument
    add("--executor_registration_timeout", type=positive, default=60.0, metavar="T", help="default: 1mins")
    add("--executor_reregistration_timeout", type=positive, default=2.0, metavar="T", help="default: 2secs")
    add("--executor_shutdown_grace_period", type=duration, default=5.0, metavar="T", help="default: 5secs")
    add("--recovery_timeout", type=positive, default=900.0, metavar="T", help="default: 15mins")
    add("--registration_backoff_factor", type=positive, default=1.0, metavar="T", help="default: 1secs")


def _oversubscription(result: argparse.ArgumentParser) -> None:
    add = result.add_argument
    add(
        "--resource_estimator",
        type=Estimator,
        metavar="R|FILE",
        help="revocable resources: 'cpus:4;mem:1024', what Mesos' fixed estimator is given, or file:///PATH with that, "
        "which is read again each time",
    )
    add(
        "--qos_controller",
        choices=("noop", "estimate"),
        default="noop",
        help="estimate: end executors on revocable resources while they hold more than there is (default: noop)",
    )
    add(
        "--oversubscribed_resources_interval",
        type=positive,
        default=15.0,
        metavar="T",
        help="default: 15secs",
    )


def _access(result: argparse.ArgumentParser) -> None:
    add = result.add_argument
    add_switch(result, "authenticate_http_readonly", "plain GETs need HTTP Basic")
    add_switch(result, "authenticate_http_readwrite", "so does the operator API")
    add(
        "--http_credentials",
        type=file_path,
        metavar="FILE",
        help="JSON: credentials, with principal and secret each",
    )
    add_switch(result, "authenticate_http_executors", "executors need the token they are started with")
    add("--jwt_secret_key", type=file_path, metavar="FILE", help="the key of those tokens")
    add("--credential", type=file_path, metavar="FILE", help="JSON: principal and secret, for the master")


def _secured(args: dict[str, Any], environ: Mapping[str, str]) -> None:
    """Files become what is in them. Raises ValueError."""
    wanted = [name for name in ("authenticate_http_readonly", "authenticate_http_readwrite") if args[name]]
    if wanted and args["http_credentials"] is None:
        raise ValueError(f"--{wanted[0]}: needs --http_credentials")
    file = args["http_credentials"]
    args["http_credentials"] = {} if file is None else read_credentials(file, "--http_credentials")
    key = args["jwt_secret_key"]
    if args.pop("authenticate_http_executors"):
        if key is None:
            raise ValueError(
                "--jwt_secret_key must be specified when --authenticate_http_executors is set to true"
            )
        try:
            args["jwt_secret_key"] = key.read_bytes()
        except OSError as error:
            raise ValueError(f"--jwt_secret_key: {error.strerror}: {key}") from error
    else:
        args["jwt_secret_key"] = None
    if args["credential"] is not None:
        args["credential"] = read_credential(args["credential"], "--credential")
    args["tls"] = contexts(environ)


def variables(text: str) -> dict[str, str]:
    found = json_object(text)
    for name, value in found.items():
        if not isinstance(value, str):
            raise argparse.ArgumentTypeError(f"`{name}` must be a string")
    return found


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
    try:
        _secured(args, os.environ)
    except ValueError as error:
        parser.error(str(error))
    args["work_dir"] = args["work_dir"].absolute()
    try:
        args["work_dir"].mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--work_dir: {error}")
    args["resources"] = complete(given, args["work_dir"])
    args["hostname"] = args["hostname"] or args["ip"]
    return Flags(**args)
