"""The flags of the access to Mesos, apart from what they mean (see `settings`): for who only reads a command line."""

import argparse
from pathlib import Path

SERVICE_ACCOUNT_VARIABLE = "DCOS_SERVICE_ACCOUNT_CREDENTIAL"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that `access_from` reads."""
    group = parser.add_argument_group("access to Mesos")
    add = group.add_argument
    add("--mesos-principal", metavar="NAME", help="principal for HTTP Basic, with --mesos-secret-file")
    add("--mesos-secret-file", metavar="FILE", type=Path, help="file with the principal's secret on one line")
    add(
        "--mesos-token-file",
        metavar="FILE",
        type=Path,
        help="file with a bearer token, read again when it changes",
    )
    add(
        "--dcos-service-account",
        metavar="FILE",
        type=Path,
        help=f"JSON secret of a DC/OS service account (or {SERVICE_ACCOUNT_VARIABLE} in the environment)",
    )
    add(
        "--mesos-tls",
        action="store_true",
        help="speak TLS to masters given without a scheme, or by ZooKeeper",
    )
    add(
        "--mesos-ca-file",
        metavar="FILE",
        type=Path,
        help="PEM bundle to verify masters with; implies --mesos-tls",
    )
    add("--mesos-cert-file", metavar="FILE", type=Path, help="PEM client certificate; implies --mesos-tls")
    add("--mesos-key-file", metavar="FILE", type=Path, help="its key, when that is not in the same file")
    add(
        "--mesos-insecure",
        action="store_true",
        help="do not verify the masters' certificates; implies --mesos-tls",
    )
