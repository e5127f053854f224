"""The command line of `gantry scheduler`: every flag with its unit, default and meaning. What they mean together is
`config`'s business; the flags of the access to Mesos are `shared.mesos.settings`'.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NoReturn

from shared.mesos.flags import add_flags
from shared.models.annotations import REVOCABLE, STRATEGIES
from shared.security.atrest import VARIABLE as KEYS
from shared.zookeeper.settings import ZooKeeperSettings, refuse_flags, settings_from
from shared.zookeeper.settings import add_flags as add_zookeeper_flags

ABOUT = "The Mesos framework scheduler and its Kubernetes API."

EPILOG = """\
exit codes: 0 stopped by SIGTERM or SIGINT; 1 a bug; 2 bad flags or files; 3 cannot listen; 4 the store cannot be used;
5 Mesos refused, removed or took over the framework, or it would be another one; 6 another scheduler leads now: start
this one again. Stopping never ends the pods."""


CLUSTER = "gantry"
"""`--cluster-id` of who does not say another."""


class UsageError(Exception):
    """One line: which flag is wrong and why."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def parser() -> argparse.ArgumentParser:
    """Raises UsageError where argparse would print and exit."""
    wide = argparse.RawDescriptionHelpFormatter
    made = _Parser(prog="gantry scheduler", description=ABOUT, formatter_class=wide, epilog=EPILOG)
    _places(made)
    made.add_argument(
        "--log-level", default="info", choices=("debug", "info", "warning", "error"), help="(%(default)s)"
    )
    _api(made.add_argument_group("the API"))
    framework = made.add_argument_group("the framework")
    _identity(framework)
    _framework(framework)
    _executors(made.add_argument_group("executors"))
    add_flags(made)
    add_zookeeper_flags(made)
    return made


def uninstall_parser(about: str, epilog: str) -> argparse.ArgumentParser:
    """Of `gantry uninstall`: what it has in common with the scheduler, and `--yes`."""
    wide = argparse.RawDescriptionHelpFormatter
    made = _Parser(prog="gantry uninstall", description=about, formatter_class=wide, epilog=epilog)
    _places(made)
    made.add_argument("--yes", action="store_true", help="do not ask")
    made.add_argument(
        "--timeout",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="to reach the master, to see a pod or a volume go, and to see the framework end (%(default).0f)",
    )
    made.add_argument(
        "--abandon-volumes",
        action="store_true",
        help="leave the volumes of agents that are away, and the disk reserved for them, where they are for good",
    )
    _identity(made.add_argument_group("the framework, as the scheduler was told"))
    add_flags(made)
    add_zookeeper_flags(made)
    return made


def rotation_parser(about: str, epilog: str) -> argparse.ArgumentParser:
    """Of `gantry rotate-keys`."""
    made = _Parser(prog="gantry rotate-keys", description=about, epilog=epilog)
    _state(made)
    add_zookeeper_flags(made)
    return made


def zookeeper_of(args: argparse.Namespace) -> ZooKeeperSettings | None:
    """None for a store that is none of ZooKeeper's. Raises UsageError."""
    try:
        if not args.store.startswith("zk://"):
            refuse_flags(args)
            return None
        return settings_from(args.store, args)
    except ValueError as error:
        raise UsageError(f"--store: {error}" if "--zk" not in str(error) else str(error)) from None


def _places(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--master",
        required=True,
        help="HOST:PORT, HOST1:PORT,HOST2:PORT or zk://HOSTS/PATH of the Mesos masters",
    )
    _state(made)


def _state(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--store",
        required=True,
        metavar="URL",
        help="where the state is kept: sqlite:PATH, or zk://[USER:PASSWORD@]HOSTS/PATH for any number of schedulers",
    )
    made.add_argument(
        "--cluster-id",
        default=CLUSTER,
        metavar="NAME",
        help="whose state it is: a scheduler of another cluster refuses to use it (%(default)s)",
    )
    made.add_argument(
        "--encryption-key-file",
        type=Path,
        metavar="FILE",
        help=f"keys with which Secrets are encrypted in the store, the first of them new ones (or {KEYS} in the "
        "environment)",
    )


def _api(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--listen",
        default="127.0.0.1:8080",
        metavar="HOST:PORT",
        help="of the API (%(default)s); port 0: any free one",
    )
    add(
        "--token-file",
        metavar="FILE",
        help="bearer token that clients must show; without, only loopback is served",
    )
    add("--tls-cert-file", type=Path, metavar="FILE", help="PEM certificate (chain) to serve HTTPS with")
    add("--tls-private-key-file", type=Path, metavar="FILE", help="its private key, PEM")
    add(
        "--cert-dir",
        type=Path,
        metavar="DIR",
        help="without --tls-cert-file: serve HTTPS with a certificate made and kept here; clients trust its ca.crt",
    )
    add(
        "--advertise",
        default="",
        metavar="HOST[:PORT]",
        help="where the other schedulers reach this one's API: a name or address, with the port if it is another one "
        "than is listened on (the host of --listen, or else --hostname)",
    )
    add("--hostname", default="", help="of this scheduler, as Mesos shows it (this machine's)")
    add("--advertise-url", default="", metavar="URL", help="of this API, as Mesos shows it (webui_url)")


def _identity(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--framework-name", default="gantry", metavar="NAME", help="(%(default)s)")
    add("--role", default="gantry", help="Mesos role of pods that ask for none (%(default)s)")
    more = "further Mesos roles that pods and namespaces may ask for, by the annotation gantry.io/role"
    add("--roles", default="", metavar="ROLE,…", help=more)
    add("--user", default="", help="user of the executors on the agents (the user of this process)")


def _framework(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    spare = f"take revocable resources for pods of QoS class BestEffort with the annotation {REVOCABLE}"
    add("--revocable", action="store_true", help=spare)
    stay = "seconds that pods run on without any scheduler before Mesos ends them (%(default).0f)"
    add("--failover-timeout", type=float, default=604800.0, metavar="SECONDS", help=stay)
    add("--max-pods-per-node", type=int, default=110, metavar="N", help="(%(default)s)")
    moves = "pods that leave nodes with planned maintenance at once; near the window all do (%(default)s)"
    add("--maintenance-moves", type=int, default=5, metavar="N", help=moves)
    add(
        "--placement",
        default=STRATEGIES[0],
        choices=STRATEGIES,
        help="fill one agent before the next, or take the one with most free; pods choose by annotation"
        " gantry.io/placement (%(default)s)",
    )


def _executors(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--executor-command",
        default="",
        metavar="COMMAND",
        help="shell command of an executor that agents have (they fetch and run a bundle of this program)",
    )
    add(
        "--executor-bundle",
        type=Path,
        metavar="FILE",
        help="what agents fetch and run: an archive made by `gantry bundle` (of this program, made once)",
    )
    add(
        "--executor-options",
        default="",
        metavar="OPTIONS",
        help="of the bundle's gantry executor, as in a shell",
    )
    add(
        "--bundle-listen",
        default="",
        metavar="HOST:PORT",
        help="where the bundle is served by plain HTTP (the host of --listen, any free port)",
    )
    add(
        "--executor-uri",
        action="append",
        default=[],
        metavar="URI",
        help="fetched into the sandbox; repeatable",
    )
    add(
        "--executor-idle-timeout",
        type=float,
        default=900.0,
        metavar="SECONDS",
        help="an executor leaves after so long without a pod, and the logs of its last pods with it; 0: never "
        "(%(default).0f)",
    )
    overhead = "overhead of an executor (%(default)s)"
    add("--executor-cpus", type=float, default=0.1, metavar="CPUS", help=overhead)
    add("--executor-mem", type=float, default=64.0, metavar="MB", help=overhead)
