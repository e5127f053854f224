"""`gantry master`'s flags, spelled as mesos-master spells them."""

import argparse
import ipaddress
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from local.flags import add_switch, domain, file_path, ip_address, port, positive
from local.master.validation.ids import role_error
from local.wire.authentication import read_credentials
from local.wire.tls import Contexts, contexts


@dataclass(frozen=True)
class Flags:
    """Durations are seconds."""

    ip: str = "127.0.0.1"
    port: int = 5050
    hostname: str = "127.0.0.1"
    advertise_ip: str | None = None
    advertise_port: int | None = None
    work_dir: Path = Path("mesos-master")
    allocation_interval: float = 1.0
    agent_ping_timeout: float = 15.0
    max_agent_ping_timeouts: int = 5
    agent_reregister_timeout: float = 600.0
    max_completed_frameworks: int = 50
    roles: frozenset[str] | None = None
    domain: dict[str, Any] | None = None
    require_agent_domain: bool = False
    authenticate_http_frameworks: bool = False
    authenticate_http_readonly: bool = False
    authenticate_http_readwrite: bool = False
    authenticate_agents: bool = False
    credentials: Mapping[str, str] = field(default_factory=dict)
    """Secrets by principal."""
    tls: Contexts = field(default_factory=Contexts)
    leader: str | None = None
    log_level: str = "info"


def role_list(text: str) -> frozenset[str]:
    roles = [role.strip() for role in text.split(",") if role.strip()]
    for role in roles:
        error = role_error(role)
        if error:
            raise argparse.ArgumentTypeError(error)
    return frozenset(roles)


def _parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="gantry master",
        description="An embedded Mesos master for one machine: the v1 scheduler and operator HTTP APIs in JSON.",
        epilog="TLS as libprocess has it: LIBPROCESS_SSL_ENABLED, _CERT_FILE, _KEY_FILE, _CA_FILE and "
        "_REQUIRE_CLIENT_CERT in the environment.",
    )
    add = result.add_argument
    add("--ip", type=ip_address, default="127.0.0.1", help="address to listen on (default: %(default)s)")
    add("--port", type=port, default=5050, help="0 takes a free one, see work_dir/endpoint (default: 5050)")
    add("--hostname", help="what is told to others (default: the IP address)")
    add("--advertise_ip", type=ip_address, metavar="IP", help="reached from elsewhere at this address")
    add("--advertise_port", type=port, metavar="PORT", help="reached from elsewhere at this port")
    add("--work_dir", type=Path, required=True, metavar="DIR", help="the registry and the file `endpoint`")
    add("--allocation_interval", type=positive, default=1.0, metavar="T", help="default: 1secs")
    add("--agent_ping_timeout", type=positive, default=15.0, metavar="T", help="default: 15secs")
    add("--max_agent_ping_timeouts", type=int, default=5, metavar="N", help="default: 5")
    add("--agent_reregister_timeout", type=positive, default=600.0, metavar="T", help="default: 10mins")
    add("--max_completed_frameworks", type=int, default=50, metavar="N", help="default: 50")
    add("--roles", type=role_list, metavar="A,B", help="the only roles that may be used (default: any)")
    add(
        "--domain",
        type=domain,
        metavar="JSON|FILE",
        help="region and zone of this master, as Mesos' DomainInfo",
    )
    add_switch(result, "require_agent_domain", "agents without a domain may not register")
    _access(result)
    add("--leader", metavar="HOST:PORT", help="do not lead, redirect to this master instead")
    add("--zk", metavar="URL", help=argparse.SUPPRESS)
    add("--quorum", help=argparse.SUPPRESS)
    add("--log_level", default="info", choices=("debug", "info", "warning", "error"))
    return result


def _access(result: argparse.ArgumentParser) -> None:
    add_switch(result, "authenticate_http_frameworks", "frameworks need HTTP Basic")
    add_switch(result, "authenticate_http_readonly", "so do plain GETs")
    add_switch(result, "authenticate_http_readwrite", "so does the operator API")
    add_switch(result, "authenticate_agents", "so do agents, by their --credential")
    result.add_argument(
        "--credentials",
        type=file_path,
        metavar="FILE",
        help="JSON: credentials, with principal and secret each",
    )


def _secured(args: argparse.Namespace, environ: Mapping[str, str]) -> None:
    """Files become what is in them. Raises ValueError."""
    wanted = [name for name in vars(args) if name.startswith("authenticate_") and getattr(args, name)]
    if wanted and args.credentials is None:
        raise ValueError(f"--{wanted[0]}: needs --credentials")
    if args.credentials is not None:
        args.credentials = read_credentials(args.credentials, "--credentials")
    else:
        args.credentials = {}
    args.tls = contexts(environ)


def parse(argv: list[str]) -> Flags:
    """Flags of a command line; exits with 2 and one line on stderr when they are wrong."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.zk is not None or args.quorum is not None:
        parser.error("--zk: the embedded master has no ZooKeeper; run a real Mesos for high availability")
    if args.max_agent_ping_timeouts < 1:
        parser.error("--max_agent_ping_timeouts: must be at least 1")
    address = args.advertise_ip or args.ip
    if args.hostname is None:
        args.hostname = socket.gethostname() if ipaddress.ip_address(address).is_unspecified else address
    try:
        _secured(args, os.environ)
    except ValueError as error:
        parser.error(str(error))
    known = {k: v for k, v in vars(args).items() if k not in ("zk", "quorum")}
    return Flags(**known)
