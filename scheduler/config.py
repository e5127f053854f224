"""The scheduler's settings: one frozen tree, parsed once from the command line.

Every knob has a unit, a default and a meaning in its help. Secrets come from files, never from arguments, because
arguments can be read by everybody on the machine.
"""

from __future__ import annotations

import argparse
import getpass
import hashlib
import json
import math
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from scheduler.flags import CLUSTER, UsageError, parser, zookeeper_of
from scheduler.framework.core.policy import Policy
from scheduler.framework.core.vectors import Vector
from scheduler.serving import Certificate
from scheduler.store import Store, open_store
from shared.mesos.settings import Access, access_from
from shared.mesos.values import milli
from shared.security.atrest import KeyRing, ring_from
from shared.security.dcos import DcosLogin
from shared.wire import IDLE_TIMEOUT_VARIABLE
from shared.zookeeper.location import Location
from shared.zookeeper.settings import ZooKeeperSettings

__all__ = [
    "ExecutorSettings",
    "Framework",
    "Listen",
    "Settings",
    "UsageError",
    "access_of",
    "master_of",
    "parse",
    "principal_of",
    "ring_of",
    "roles_of",
    "settings_of",
    "zookeeper_of",
]


WILDCARDS = ("0.0.0.0", "::")
"""Addresses to listen on that nobody can call."""

LEAST_IDLE = 10.0
"""Half of it must be more than a launch is under way for."""


@dataclass(frozen=True, slots=True)
class Listen:
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Framework:
    """What goes into FrameworkInfo. failover_timeout: seconds the master waits for us before it ends our tasks."""

    name: str
    roles: tuple[str, ...]
    """The first is that of pods which ask for none."""
    user: str
    failover_timeout: float
    principal: str
    hostname: str
    webui_url: str
    revocable: bool = False
    """Revocable resources are taken, for the pods that ask for them."""

    def info(self, framework_id: str) -> dict[str, Any]:
        capabilities = [
            "MULTI_ROLE",
            "PARTITION_AWARE",
            "TASK_KILLING_STATE",
            "RESERVATION_REFINEMENT",
            "REGION_AWARE",
            "GPU_RESOURCES",
        ]
        if self.revocable:
            capabilities.append("REVOCABLE_RESOURCES")
        info: dict[str, Any] = {
            "user": self.user,
            "name": self.name,
            "roles": list(self.roles),
            "capabilities": [{"type": one} for one in capabilities],
            "checkpoint": True,
            "failover_timeout": self.failover_timeout,
            "hostname": self.hostname,
            "labels": {"labels": [{"key": "DCOS_SERVICE_NAME", "value": self.name}]},
        }
        optional = {"principal": self.principal, "webui_url": self.webui_url}
        info |= {name: value for name, value in optional.items() if value}
        if framework_id:
            info["id"] = {"value": framework_id}
        return info


@dataclass(frozen=True, slots=True)
class ExecutorSettings:
    """The command the agents run, what it fetches first, what one instance takes."""

    command: str
    """Empty: that of the bundle which is served (`bundles.offered`)."""
    uris: tuple[str, ...]
    overhead: Vector
    idle_timeout: float
    """Seconds without a pod after which an instance leaves; 0: never."""
    options: str = ""
    bundle: Path | None = None
    bundle_url: str = ""
    """Where agents fetch the bundle from; empty without one."""

    def command_info(self) -> dict[str, Any]:
        variables = [{"name": IDLE_TIMEOUT_VARIABLE, "type": "VALUE", "value": f"{self.idle_timeout:g}"}]
        environment = {"variables": variables}
        info: dict[str, Any] = {"shell": True, "value": self.command, "environment": environment}
        uris = [{"value": one, "cache": True} for one in self.uris]
        if self.bundle_url:
            uris.append({"value": self.bundle_url, "cache": True, "extract": False})
        if uris:
            info["uris"] = uris
        return info

    def version(self, program: str) -> str:
        """Ten letters that change whenever what the executors are does; not with who serves their bundle."""
        command = replace(self, bundle_url="").command_info()
        facts = [program, command, self.overhead.cpus, self.overhead.mem]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:10]


@dataclass(frozen=True, slots=True)
class Settings:
    """All flags of `gantry scheduler`, checked. Secrets are not in its repr."""

    master: str = field(repr=False)
    store: str = field(repr=False)
    listen: Listen
    bundle_listen: Listen
    token: str | None = field(repr=False)
    certificate: Certificate
    framework: Framework
    executor: ExecutorSettings
    access: Access
    max_pods: int
    maintenance_moves: int
    placement: str
    log_level: str
    zookeeper: ZooKeeperSettings | None = None
    """Of the store, which several schedulers share then."""
    cluster: str = CLUSTER
    ring: KeyRing | None = None
    arguments: argparse.Namespace | None = field(default=None, repr=False)
    advertise: str = ""
    """`HOST` or `HOST:PORT` of our API, for the other schedulers; "" for what can be told from the rest."""

    def open_store(self) -> Store:
        """Not open yet. Raises StoreError."""
        return open_store(self.store, arguments=self.arguments, ring=self.ring, cluster=self.cluster)

    def url(self, port: int, *, tls: bool) -> str:
        """Where others reach the API that listens on this port."""
        host, port = self._advertised(port)
        return f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"

    @property
    def names(self) -> list[str]:
        """By which clients may call on the API, so that a certificate made here has to name them."""
        host, _ = self._advertised(0)
        return [host, self.listen.host, self.framework.hostname, "localhost", "127.0.0.1"]

    def _advertised(self, port: int) -> tuple[str, int]:
        if self.advertise:
            found = _place(self.advertise)
            assert found is not None
            return found.host, found.port or port
        host = self.listen.host
        return (self.framework.hostname if host in WILDCARDS else host), port

    def policy(self, program: str) -> Policy:
        return Policy(
            executor_version=self.executor.version(program),
            executor=self.executor.overhead,
            idle=self.executor.idle_timeout or math.inf,
            max_pods=self.max_pods,
            maintenance_moves=self.maintenance_moves,
            placement=self.placement,
            roles=self.framework.roles,
        )


def parse(argv: list[str], environ: Mapping[str, str] = os.environ) -> Settings:
    """Raises UsageError; SystemExit for --help."""
    return settings_of(parser().parse_args(argv), environ)


def settings_of(args: argparse.Namespace, environ: Mapping[str, str] = os.environ) -> Settings:
    """What the flags mean together. Raises UsageError."""
    if (args.tls_cert_file is None) != (args.tls_private_key_file is None):
        raise UsageError("--tls-cert-file and --tls-private-key-file: give both or neither")
    if args.failover_timeout <= 0:
        raise UsageError("--failover-timeout: must be above 0, or a lost connection ends all pods")
    if args.max_pods_per_node < 1:
        raise UsageError("--max-pods-per-node: must be at least 1")
    if args.maintenance_moves < 1:
        raise UsageError("--maintenance-moves: must be at least 1")
    if args.advertise and _place(args.advertise) is None:
        raise UsageError(f"--advertise {args.advertise!r}: expected HOST or HOST:PORT")
    access = access_of(args, environ)
    return Settings(
        master=master_of(args.master),
        store=args.store,
        listen=_listen("--listen", args.listen),
        bundle_listen=_bundle_listen(args),
        token=_secret_of("--token-file", args.token_file),
        certificate=Certificate(args.tls_cert_file, args.tls_private_key_file, args.cert_dir),
        framework=Framework(
            name=args.framework_name,
            roles=roles_of(args.role, args.roles),
            user=args.user or getpass.getuser(),
            failover_timeout=args.failover_timeout,
            principal=principal_of(args, access),
            hostname=args.hostname or socket.gethostname(),
            webui_url=args.advertise_url,
            revocable=args.revocable,
        ),
        executor=_executor(args),
        access=access,
        max_pods=args.max_pods_per_node,
        maintenance_moves=args.maintenance_moves,
        placement=args.placement,
        log_level=args.log_level,
        zookeeper=zookeeper_of(args),
        cluster=_cluster(args.cluster_id),
        ring=ring_of(args, environ),
        arguments=args,
        advertise=args.advertise,
    )


def access_of(args: argparse.Namespace, environ: Mapping[str, str]) -> Access:
    """Raises UsageError."""
    try:
        return access_from(args, environ)
    except ValueError as error:
        raise UsageError(str(error)) from None


def principal_of(args: argparse.Namespace, access: Access) -> str:
    """Of FrameworkInfo: who we authenticate as. A bearer token does not tell whose it is."""
    if isinstance(access.credentials, DcosLogin):
        return access.credentials.account.uid
    return args.mesos_principal or ""


def ring_of(args: argparse.Namespace, environ: Mapping[str, str]) -> KeyRing | None:
    """What Secrets are encrypted with. Raises UsageError."""
    try:
        return ring_from(args.encryption_key_file, environ)
    except ValueError as error:
        raise UsageError(f"--encryption-key-file: {error}") from None


def _cluster(text: str) -> str:
    if not text or not text.isprintable() or len(text) > 253:
        raise UsageError(f"--cluster-id {text!r}: expected a name")
    return text


def _executor(args: argparse.Namespace) -> ExecutorSettings:
    cpus, mem = (
        _amount("--executor-cpus", args.executor_cpus, 0.01),
        _amount("--executor-mem", args.executor_mem, 32.0),
    )
    for flag, value in (
        ("--executor-bundle", args.executor_bundle),
        ("--executor-options", args.executor_options),
    ):
        if args.executor_command and value:
            raise UsageError(f"--executor-command and {flag}: give one of them")
    idle = args.executor_idle_timeout
    if idle != 0 and not LEAST_IDLE <= idle < math.inf:
        raise UsageError(f"--executor-idle-timeout: must be at least {LEAST_IDLE:g} seconds, or 0 for never")
    return ExecutorSettings(
        command=args.executor_command,
        uris=tuple(args.executor_uri),
        overhead=Vector(cpus, mem),
        idle_timeout=idle,
        options=args.executor_options,
        bundle=args.executor_bundle,
    )


def _amount(flag: str, value: float, least: float) -> int:
    """Mesos warns about executors with less than 0.01 cpus or 32 MB; here they are refused."""
    try:
        amount = milli(value)
    except ValueError as error:
        raise UsageError(f"{flag}: {error}") from None
    if amount < milli(least):
        raise UsageError(f"{flag}: must be at least {least}")
    return amount


def master_of(text: str) -> str:
    """As it is. Raises UsageError."""
    if text.startswith("zk://"):
        try:
            Location.parse(text)
        except ValueError as error:
            raise UsageError(f"--master: {error}") from None
    else:
        for one in text.split(","):
            host, _, port = one.rpartition(":")
            if not host or not port.isdigit():
                raise UsageError(f"--master {text!r}: expected HOST:PORT, a list of them, or zk://HOSTS/PATH")
    return text


def roles_of(first: str, more: str) -> tuple[str, ...]:
    """Without repetitions, in order. Raises UsageError."""
    found = [_role("--role", first)]
    found += [_role("--roles", one.strip()) for one in more.split(",") if one.strip()]
    return tuple(dict.fromkeys(found))


def _role(flag: str, text: str) -> str:
    """Mesos' rules (`src/common/roles.cpp`), and not `*`: offers to it cannot be told from anybody's."""
    for part in text.split("/"):
        if not part or part.startswith("-") or part in {".", "..", "*"} or re.search(r"[\s\\\x7f\x08]", part):
            raise UsageError(f"{flag} {text!r}: not a role that a Mesos framework can have")
    return text


def _bundle_listen(args: argparse.Namespace) -> Listen:
    """Who reaches the API reaches the bundle."""
    if args.bundle_listen:
        return _listen("--bundle-listen", args.bundle_listen)
    return Listen(_listen("--listen", args.listen).host, 0)


def _place(text: str) -> Listen | None:
    """`HOST`, `HOST:PORT` (or 0) or the same with an IPv6 address in brackets; None for what is none of these."""
    found = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([^\s\[\]:/@]+))(?::([0-9]{1,5}))?", text)
    if found is None or int(found[3] or 0) > 65535:
        return None
    return Listen(found[1] or found[2], int(found[3] or 0))


def _listen(flag: str, text: str) -> Listen:
    host, _, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise UsageError(f"{flag} {text!r}: write an IPv6 address as [ADDRESS]:PORT")
    if not host or not port.isdigit() or int(port) > 65535:
        raise UsageError(f"{flag} {text!r}: expected HOST:PORT")
    return Listen(host, int(port))


def _secret_of(flag: str, path: str | None) -> str | None:
    """The content of a file, without spaces around it."""
    if path is None:
        return None
    try:
        secret = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{flag} {path}: cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from None
    if not secret:
        raise UsageError(f"{flag} {path}: the file is empty")
    return secret
