"""The node's settings for images: how to reach hosts, mirrors, logins, limits of the store. One TOML file.

    docker-config = "/etc/gantry/docker-config.json"   # the node's logins, as `docker login` writes them

    [hosts."registry.example.com:5000"]                # a host as its addresses name it: with its port, if not 443
    ca = "/etc/gantry/example-ca.pem"                  # instead of the system's certificate authorities
    client-cert = "/etc/gantry/node.pem"
    client-key = "/etc/gantry/node.key"
    plain-http = false                                 # speak HTTP with it
    skip-verify = false                                # believe any certificate

    [registries."docker.io"]
    mirrors = ["https://mirror.example.com/dockerhub"] # asked first, in this order

    [downloads]
    parallel-layers = 3                                # of one image
    connect-timeout = 20.0                             # seconds
    read-timeout = 60.0                                # seconds without a byte

    [gc]
    high-percent = 85.0                                # of the store's disk: start to remove unused images
    low-percent = 80.0                                 # …until it is this full
    minimum-age = 120.0                                # seconds since its last use that an image is kept at least
    maximum-age = 0.0                                  # unused for longer: removed however much room there is; 0: never
    interval = 300.0                                   # seconds between two looks at the disk

The tables [policy] and [trust] say which images are let in: `trust/policy.py`, `trust/gate.py`; [stage1], which may run
pods: `trust/stage1.py`.

Checked as a whole when the program starts: an unknown key or a value of another kind is an error that names it.
"""

import ipaddress
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from yarl import URL

from executor.stage0 import names
from executor.stage0.errors import ImageError
from executor.stage0.trust import Gate
from executor.stage0.trust.stage1 import Stage1Image
from executor.stage0.trust.stage1 import parse as parse_stage1


@dataclass(frozen=True)
class Host:
    """How a host is spoken to."""

    ca: Path | None = None
    client_cert: Path | None = None
    client_key: Path | None = None
    plain_http: bool = False
    skip_verify: bool = False


@dataclass(frozen=True)
class Downloads:
    """Bounds of one pull; times in seconds."""

    parallel_layers: int = 3
    connect_timeout: float = 20.0
    read_timeout: float = 60.0


@dataclass(frozen=True)
class Collection:
    """When images are removed; the defaults are the kubelet's. Ages and interval in seconds."""

    high_percent: float = 85.0
    low_percent: float = 80.0
    minimum_age: float = 120.0
    maximum_age: float = 0.0
    interval: float = 300.0


Login = Callable[[str, URL], Mapping[str, str]]
"""The headers that a request (method, address) of an ACI, of what leads to it or of a key has to have for its host."""


@dataclass(frozen=True)
class Settings:
    """The whole file; the defaults are those of no file at all. hosts by `host[:port]`, mirrors by registry.

    login is in no file of ours: rkt's configuration has it.
    """

    docker_config: Path | None = None
    hosts: Mapping[str, Host] = field(default_factory=dict)
    mirrors: Mapping[str, tuple[URL, ...]] = field(default_factory=dict)
    downloads: Downloads = field(default_factory=Downloads)
    gc: Collection = field(default_factory=Collection)
    gate: Gate = field(default_factory=Gate)
    stage1: Mapping[str, Stage1Image] = field(default_factory=dict)
    login: Login | None = None

    def host(self, url: URL) -> Host | None:
        """What is set for the host of an address, by its authority, with and without the usual port."""
        known = self.hosts.get(authority(url))
        if known is None and url.is_default_port():
            known = self.hosts.get(f"{authority(url)}:{url.port}")
        return known


def authority(url: URL) -> str:
    """`host`, or `host:port` when it is not the scheme's usual one."""
    host = f"[{url.host}]" if ":" in (url.host or "") else url.host or ""
    return host if url.is_default_port() else f"{host}:{url.port}"


def is_loopback(authority: str) -> bool:
    """Whether `host[:port]` is this machine by its very name; names are not resolved."""
    try:
        host = URL(f"//{authority}").host or ""
    except ValueError:
        return False
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def load(path: Path | None) -> Settings:
    """Read the file; no path, no settings. Raises ValueError, one line that names the file and the key."""
    if path is None:
        return Settings()
    try:
        with path.open("rb") as file:
            made = parse(tomllib.load(file))
            made.gate.follow(path, os.fstat(file.fileno()))
            return made
    except OSError as error:
        raise ValueError(f"--image-config {path}: {error.strerror}") from None
    except (ValueError, ImageError) as error:
        raise ValueError(f"--image-config {path}: {error}") from None


def parse(document: Mapping[str, Any]) -> Settings:
    """The settings of a parsed file. ValueError names the key."""
    top = _Table("", document)
    hosts = {name: _host(name, table) for name, table in top.tables("hosts")}
    mirrors = {_registry(name): _mirrors(table) for name, table in top.tables("registries")}
    config = top.path("docker-config")
    downloads = _downloads(top.table("downloads"))
    collection = _collection(top.table("gc"))
    gate = Gate.from_tables(top.raw("policy"), top.raw("trust"))
    stage1 = parse_stage1(top.raw("stage1"))
    top.finish()
    return Settings(config, hosts, mirrors, downloads, collection, gate, stage1)


def _host(name: str, table: "_Table") -> Host:
    if not names.is_authority(name):
        raise ValueError(f'hosts."{name}": not HOST or HOST:PORT')
    host = Host(
        ca=table.path("ca"), client_cert=table.path("client-cert"), client_key=table.path("client-key"),
        plain_http=table.flag("plain-http"), skip_verify=table.flag("skip-verify"),
    )  # fmt: skip
    table.finish()
    if (host.client_cert is None) != (host.client_key is None):
        raise ValueError(f'hosts."{name}": client-cert and client-key belong together')
    if host.plain_http and (host.ca or host.client_cert or host.skip_verify):
        raise ValueError(f'hosts."{name}": plain-http leaves no use for ca, client-cert or skip-verify')
    return host


def _registry(name: str) -> str:
    if not names.is_authority(name):
        raise ValueError(f'registries."{name}": not HOST or HOST:PORT')
    return names.DEFAULT_REGISTRY if name == "index.docker.io" else name


def _mirrors(table: "_Table") -> tuple[URL, ...]:
    where, mirrors = table.where("mirrors"), []
    for text in table.strings("mirrors"):
        try:
            url = URL(text)
        except ValueError:
            url = URL()
        if url.scheme not in {"https", "http"} or not url.host or url.query_string or url.user:
            raise ValueError(f"{where}: {text!r} is not https://HOST[:PORT][/PATH]")
        mirrors.append(url)
    table.finish()
    return tuple(mirrors)


def _downloads(table: "_Table") -> Downloads:
    default = Downloads()
    parallel = table.number("parallel-layers", default.parallel_layers, lambda n: 1 <= n <= 64)
    connect = table.number("connect-timeout", default.connect_timeout, lambda n: n > 0)
    read = table.number("read-timeout", default.read_timeout, lambda n: n > 0)
    table.finish()
    return Downloads(int(parallel), connect, read)


def _collection(table: "_Table") -> Collection:
    default = Collection()
    made = Collection(
        high_percent=table.number("high-percent", default.high_percent, lambda n: 0 < n <= 100),
        low_percent=table.number("low-percent", default.low_percent, lambda n: 0 <= n <= 100),
        minimum_age=table.number("minimum-age", default.minimum_age, lambda n: n >= 0),
        maximum_age=table.number("maximum-age", default.maximum_age, lambda n: n >= 0),
        interval=table.number("interval", default.interval, lambda n: n > 0),
    )
    table.finish()
    if made.low_percent > made.high_percent:
        raise ValueError("gc.low-percent: is above gc.high-percent")
    return made


class _Table:
    """A table whose keys are taken one by one; what is left in the end is a mistake."""

    def __init__(self, name: str, table: object) -> None:
        if not isinstance(table, Mapping):
            raise ValueError(f"{name}: not a table")
        self._name, self._left = name, dict(table)

    def where(self, key: str) -> str:
        """The key with its tables in front."""
        return f"{self._name}.{key}" if self._name else key

    def table(self, key: str) -> "_Table":
        return _Table(self.where(key), self._left.pop(key, {}))

    def raw(self, key: str) -> Any:
        """For somebody else to check; None when it is not there."""
        return self._left.pop(key, None)

    def tables(self, key: str) -> list[tuple[str, "_Table"]]:
        children = self.table(key)
        return [(name, _Table(f'{key}."{name}"', child)) for name, child in children._left.items()]

    def path(self, key: str) -> Path | None:
        """An absolute path of something that is there."""
        value = self._left.pop(key, None)
        if value is None:
            return None
        if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
            raise ValueError(f"{self.where(key)}: {value!r} is not an absolute path")
        if not Path(value).exists():
            raise ValueError(f"{self.where(key)}: no such file {value}")
        return Path(value)

    def flag(self, key: str) -> bool:
        value = self._left.pop(key, False)
        if not isinstance(value, bool):
            raise ValueError(f"{self.where(key)}: {value!r} is neither true nor false")
        return value

    def number(self, key: str, default: float, valid: Callable[[float], bool]) -> float:
        value = self._left.pop(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not valid(value):
            raise ValueError(f"{self.where(key)}: {value!r} is out of range, or not a number")
        return value

    def strings(self, key: str) -> list[str]:
        value = self._left.pop(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise ValueError(f"{self.where(key)}: not a list of strings")
        return value

    def finish(self) -> None:
        for key in self._left:
            raise ValueError(f"{self.where(key)}: unknown key")
