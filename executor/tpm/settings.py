"""The flags for a TPM: `--tpm`, `--tpm-pcr`, `--tpm-policy`. The same for all commands that start pods."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from executor.tpm.transport import Tcti, parse

PCRS: Final = range(8, 16)
DEFAULT_PCR: Final = 15
POLICIES: Final = ("enforce", "report")


@dataclass(frozen=True, slots=True)
class TpmSettings:
    """enforce: what cannot be measured is not started. directory: of the event logs."""

    tcti: Tcti
    pcr: int
    enforce: bool
    directory: Path


def add_flags(parser: argparse.ArgumentParser, *, policy: bool = True) -> None:
    """policy: for commands that start pods."""
    parser.add_argument(
        "--tpm", default="", metavar="TCTI",
        help="measure what is started into this TPM 2.0: /dev/tpmrm0, or swtpm:host=HOST,port=PORT (default: none)",
    )  # fmt: skip
    parser.add_argument(
        "--tpm-pcr", type=int, default=DEFAULT_PCR, metavar="N",
        help="the PCR of the SHA-256 bank that is extended, 8 to 15 (default: %(default)s)",
    )  # fmt: skip
    if policy:
        parser.add_argument(
            "--tpm-policy", choices=POLICIES, default="enforce",
            help="what becomes of a pod that cannot be measured: enforce refuses it, report starts it and warns "
            "(default: %(default)s)",
        )  # fmt: skip


def check_pcr(pcr: int) -> int:
    """Raises ValueError for a PCR that is not for this."""
    if pcr not in PCRS:
        reason = (
            "belongs to the firmware"
            if 0 <= pcr < 8
            else "can be reset, or not be extended by an operating system"
        )
        raise ValueError(
            f"--tpm-pcr {pcr}: expected 8 to 15" + (f"; {pcr} {reason}" if 0 <= pcr < 24 else "")
        )
    return pcr


def tpm_settings(args: argparse.Namespace, state_dir: Path) -> TpmSettings | None:
    """None without `--tpm`. Raises ValueError, one line that names the flag."""
    pcr = check_pcr(args.tpm_pcr)
    if not args.tpm:
        return None
    enforce = getattr(args, "tpm_policy", "enforce") == "enforce"
    return TpmSettings(parse(args.tpm), pcr, enforce, state_dir.absolute() / "tpm")
