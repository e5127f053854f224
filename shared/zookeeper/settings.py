"""How the command line says who we are to ZooKeeper and whom we trust.

`add_flags` and `settings_from` are all a command needs. Every complaint is a ValueError of one line that names the
flag or file. Znodes belong to whom we say we are: with a login of any kind nobody else may read or write them, without
one they are open to all who reach ZooKeeper (zookeeperProgrammers.html, "ZooKeeper access control using ACLs").
"""

from __future__ import annotations

import argparse
import ssl
from dataclasses import dataclass, field
from pathlib import Path

from kazoo.security import ACL, OPEN_ACL_UNSAFE, make_acl, make_digest_acl_credential

from shared.security.secretfile import read_line
from shared.security.tls import client_context
from shared.zookeeper.location import Location

SESSION_TIMEOUT = 10.0
"""Seconds after which ZooKeeper ends the session of a client that is silent; also how long a lost host goes unseen."""


@dataclass(frozen=True, slots=True)
class Sasl:
    """A login by SASL with the mechanism DIGEST-MD5, the one that ZooKeeper has without Kerberos."""

    user: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ZooKeeperSettings:
    """All that a session needs. `digest` is `user:password` or ""."""

    location: Location
    digest: str = field(default="", repr=False)
    sasl: Sasl | None = None
    tls: ssl.SSLContext | None = None
    session_timeout: float = SESSION_TIMEOUT

    @property
    def acl(self) -> list[ACL]:
        """For every znode we make."""
        if self.sasl is not None:
            return [make_acl("sasl", self.sasl.user, all=True)]
        if self.digest:
            user, _, password = self.digest.partition(":")
            return [make_acl("digest", make_digest_acl_credential(user, password), all=True)]
        return list(OPEN_ACL_UNSAFE)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that `settings_from` reads."""
    add = parser.add_argument_group("access to ZooKeeper, for --store zk://…").add_argument
    add(
        "--zk-digest-file",
        metavar="FILE",
        type=Path,
        help="file with user:password on one line, instead of a login in the URL",
    )
    add("--zk-sasl-user", metavar="NAME", help="log in by SASL (DIGEST-MD5), with --zk-sasl-password-file")
    add("--zk-sasl-password-file", metavar="FILE", type=Path, help="file with its password on one line")
    add("--zk-tls", action="store_true", help="speak TLS to ZooKeeper")
    add("--zk-ca-file", metavar="FILE", type=Path, help="PEM bundle to verify it with; implies --zk-tls")
    add("--zk-cert-file", metavar="FILE", type=Path, help="PEM client certificate; implies --zk-tls")
    add("--zk-key-file", metavar="FILE", type=Path, help="its key, when that is not in the same file")
    add("--zk-insecure", action="store_true", help="do not verify its certificate; implies --zk-tls")
    add(
        "--zk-session-timeout",
        metavar="SECONDS",
        type=float,
        default=SESSION_TIMEOUT,
        help="silence after which ZooKeeper gives a scheduler up (%(default).0f)",
    )


def settings_from(url: str, arguments: argparse.Namespace | None = None) -> ZooKeeperSettings:
    """What `zk://…` and the flags say; without `arguments`, as if no flag were given."""
    location = Location.parse(url)
    if arguments is None:
        return ZooKeeperSettings(location, location.login)
    digest, sasl = location.login, _sasl(arguments)
    if arguments.zk_digest_file is not None:
        if digest:
            raise ValueError(f"--zk-digest-file: there is a login in {location}, too; give one of them")
        digest = read_line(arguments.zk_digest_file, "digest file")
        if not all(digest.partition(":")):
            raise ValueError(f"digest file '{arguments.zk_digest_file}': expecting user:password")
    if sasl is not None and digest:
        raise ValueError("--zk-sasl-user: there is a digest login, too; give one of them")
    if not 1 <= arguments.zk_session_timeout <= 300:
        raise ValueError("--zk-session-timeout: must be 1 to 300 seconds")
    return ZooKeeperSettings(location, digest, sasl, _tls(arguments), arguments.zk_session_timeout)


def refuse_flags(arguments: argparse.Namespace) -> None:
    """ValueError when there are flags that say nothing about any other kind of store."""
    flags = [name for name in vars(arguments) if name.startswith("zk_") and name != "zk_session_timeout"]
    given = [name for name in flags if getattr(arguments, name) not in (None, False)]
    if given:
        raise ValueError(f"--{given[0].replace('_', '-')}: is for --store zk://… only")


def _sasl(arguments: argparse.Namespace) -> Sasl | None:
    user, file = arguments.zk_sasl_user, arguments.zk_sasl_password_file
    if (user is None) != (file is None):
        raise ValueError("--zk-sasl-user and --zk-sasl-password-file belong together")
    if user is None or file is None:
        return None
    try:
        import puresasl  # noqa: F401
    except ImportError:
        raise ValueError("--zk-sasl-user: needs the package pure-sasl: pip install 'gantry[sasl]'") from None
    return Sasl(user, read_line(file, "SASL password file"))


def _tls(arguments: argparse.Namespace) -> ssl.SSLContext | None:
    files = {
        "ca_file": arguments.zk_ca_file,
        "cert_file": arguments.zk_cert_file,
        "key_file": arguments.zk_key_file,
    }
    if not (arguments.zk_tls or arguments.zk_insecure or any(files.values())):
        return None
    return client_context(**files, verify=not arguments.zk_insecure)
