"""Where a ZooKeeper is and below which path: `zk://[user:password@]host[:port],host[:port]/path`, as Mesos writes it.

Source: Mesos include/mesos/zookeeper/url.hpp (only the digest scheme has credentials in the URL).
"""

from __future__ import annotations

from dataclasses import dataclass, field

PREFIX = "zk://"
PORT = 2181


@dataclass(frozen=True, slots=True)
class Location:
    """`hosts`: `host:port,…`; `path` begins with a slash and does not end with one; `login`: `user:password` or ""."""

    hosts: str
    path: str
    login: str = field(default="", repr=False)

    def __str__(self) -> str:
        """Without the login: for logs and messages."""
        return f"{PREFIX}{self.hosts}{self.path}"

    @classmethod
    def parse(cls, url: str) -> Location:
        """ValueError of one line, which never quotes the login."""
        if not url.startswith(PREFIX):
            raise ValueError(f"not a ZooKeeper URL: '{hide(url)}' (expecting zk://host:port,host:port/path)")
        login, at, rest = url[len(PREFIX) :].rpartition("@")
        servers, slash, path = rest.partition("/")
        if not servers or not slash or not path.strip("/"):
            raise ValueError(f"not a ZooKeeper URL: '{hide(url)}' (expecting zk://host:port,host:port/path)")
        if at and not all(login.partition(":")):
            raise ValueError(f"'{hide(url)}': the login before @ must be user:password")
        names = path.strip("/").split("/")
        if any(name in ("", ".", "..") or not name.isprintable() for name in names):
            raise ValueError(f"'{hide(url)}': /{path} is not a path of ZooKeeper's")
        hosts = ",".join(_host(one.strip(), url) for one in servers.split(","))
        return cls(hosts, "/" + "/".join(names), login)

    def child(self, *names: str) -> str:
        """The path of a znode below ours."""
        return "/".join((self.path, *names))


def _host(text: str, url: str) -> str:
    host, port = text, ""
    if not text.endswith("]"):  # an IPv6 address in brackets, without a port
        host, colon, port = text.rpartition(":")
        if not colon:
            host, port = text, ""
    if not host or (port and not (port.isdecimal() and 0 < int(port) < 65536)):
        raise ValueError(f"'{hide(url)}': '{text}' is not host:port")
    return f"{host}:{port or PORT}"


def hide(url: str) -> str:
    """The URL without its login."""
    scheme, slashes, rest = url.partition("//")
    return scheme + slashes + rest.rpartition("@")[2]
