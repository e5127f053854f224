"""Measured boot, as the executor does it: `--tpm` of what starts pods, and `attest` (docs/measured-boot.md)."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from executor.rkt.common import Globals, words
from executor.rkt.flags import Failure, Flags
from executor.rkt.podmanifest import KVM
from executor.rkt.pods import STAGE1_ID
from executor.rkt.stage1 import FOREIGN

if TYPE_CHECKING:
    from executor.pods.launcher import Launcher
    from executor.tpm.settings import TpmSettings


def add_flags(flags: Flags, *, policy: bool = True) -> None:
    """`--tpm` and what belongs to it. policy: of verbs that start pods."""
    flags.text("tpm", "", "measure what is started into this TPM: /dev/tpmrm0, or swtpm:host=HOST,port=PORT")
    flags.text("tpm-pcr", "15", "the PCR that is extended, 8 to 15")
    if policy:
        flags.text("tpm-policy", "enforce", "what cannot be measured: enforce refuses it, report starts it")


def settings(g: Globals, flags: Flags) -> "TpmSettings | None":
    """None without --tpm. Failure."""
    if not flags.values["tpm"]:
        return None
    from executor.tpm.settings import POLICIES, tpm_settings

    policy, pcr = flags.values["tpm-policy"], flags.values["tpm-pcr"]
    if policy not in POLICIES:
        raise Failure(f"--tpm-policy: {policy!r} is not one of {', '.join(POLICIES)}")
    if not pcr.isdecimal():
        raise Failure(f"--tpm-pcr {pcr}: expected 8 to 15")
    asked = argparse.Namespace(tpm=flags.values["tpm"], tpm_pcr=int(pcr), tpm_policy=policy)
    try:
        return tpm_settings(asked, g.data)
    except ValueError as error:
        raise Failure(str(error)) from None


async def measure(
    g: Globals,
    wanted: "TpmSettings",
    launcher: "Launcher | None",
    path: Path,
    images: Mapping[str, str],
    flavor: str = "",
) -> None:
    """Extend the TPM with a pod that is about to start, or has another app. images: digests by app. flavor: when its
    manifest does not say. Failure."""
    from executor.tpm.measure import Measurer
    from executor.tpm.program import Parts

    async def parts(flavor: str) -> Parts | None:
        if flavor == FOREIGN:
            return Parts(image=(path / STAGE1_ID).read_text())
        if flavor != KVM:
            return None
        from executor.kvm.machines import Machines

        assert launcher is not None
        kvm = await Machines(launcher.run_pod, g.data).equipment()
        return Parts(tuple(map(str, (kvm.tools.qemu, kvm.tools.virtiofsd, kvm.boot.kernel, kvm.boot.root))))

    try:
        await Measurer(wanted, parts=parts).measure(path, path.name, images, flavor)
    except OSError as error:
        raise Failure(str(error)) from None


def attest(g: Globals, args: list[str]) -> int:
    """`attest --nonce=HEX`: what this machine's TPM signs that it has started, with the log that explains it."""
    from executor.tpm.cli import attest_main

    flags = g.flags("[flags]")
    flags.text("nonce", "", "8 to 32 bytes in hexadecimal, which the verifier made up just now")
    flags.text("out", "", "a directory to write files to, for tpm2_checkquote as well")
    flags.text("ak-handle", "", "a persistent attestation key (default: the primary one)")
    add_flags(flags, policy=False)
    if words(flags, args):
        raise Failure("takes no arguments")
    values = flags.values
    if not values["nonce"]:
        raise Failure("--nonce is needed: 8 to 32 bytes in hexadecimal, which the verifier made up just now")
    if not values["tpm-pcr"].isdecimal():
        raise Failure(f"--tpm-pcr {values['tpm-pcr']}: expected 8 to 15")
    command = [f"--state-dir={g.data}"]
    command += [
        f"--{name}={values[name]}" for name in ("nonce", "out", "ak-handle", "tpm", "tpm-pcr") if values[name]
    ]
    return 254 if attest_main(command) else 0
