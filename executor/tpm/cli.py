"""`gantry node attest` and `gantry node verify-attestation`."""

# ruff: noqa: T201  (a command line prints)

import argparse
import json
import sys
from pathlib import Path
from typing import Final

from executor.tpm import attest as attestations
from executor.tpm.commands import PublicKey
from executor.tpm.events import ZERO, Event
from executor.tpm.settings import DEFAULT_PCR, add_flags, check_pcr, tpm_settings
from executor.tpm.verify import Verified, load_key, verify
from executor.tpm.wire import DIGEST_BYTES

MAX_FILE: Final = 1 << 30
COMMANDS: Final = {
    "attest": "have the TPM sign which pods this machine started",
    "verify-attestation": "verify what `attest` printed",
}


def main(argv: list[str]) -> int:
    """One of COMMANDS."""
    return {"attest": attest_main, "verify-attestation": verify_main}[argv[0]](argv[1:])


def attest_main(argv: list[str]) -> int:
    """Exit code 0, or 1 with one line of error."""
    parser = argparse.ArgumentParser(
        prog="gantry node attest",
        description="Have the TPM sign what this machine started since it booted, and print that with the event log.",
    )
    parser.add_argument(
        "--nonce", required=True, metavar="HEX", help="8 to 32 bytes that the verifier made up just now"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="write files there, for tpm2_checkquote as well"
    )
    parser.add_argument(
        "--ak-handle", metavar="HANDLE",
        help="a persistent attestation key, like 0x81010002 (default: the primary one of the endorsement hierarchy)",
    )  # fmt: skip
    parser.add_argument(
        "--state-dir", type=Path, default=Path("/var/lib/gantry"), metavar="DIR",
        help="that of the executor; its event log is there (default: %(default)s)",
    )  # fmt: skip
    add_flags(parser, policy=False)
    parser.set_defaults(tpm="/dev/tpmrm0")
    args = parser.parse_args(argv)
    try:
        settings = tpm_settings(args, args.state_dir)
        if settings is None:
            raise ValueError("--tpm: name a TPM, like /dev/tpmrm0")
        nonce = attestations.parse_nonce(args.nonce)
        handle = None if args.ak_handle is None else attestations.parse_handle(args.ak_handle)
        made = attestations.attest(settings.tcti, settings.directory, settings.pcr, nonce, handle)
        if args.out is None:
            print(made.dump(), end="")
        else:
            made.write(args.out)
            print(f"{args.out}: attestation.json, quote.msg, quote.sig, ak.pem, events.jsonl")
    except (ValueError, OSError) as error:
        print(f"gantry: error: {error}", file=sys.stderr)
        return 1
    return 0


def verify_main(argv: list[str]) -> int:
    """Exit code 0 when all of it is proven, 1 with one line of error otherwise."""
    parser = argparse.ArgumentParser(
        prog="gantry node verify-attestation",
        description="Verify an attestation: signature, nonce, and that the event log is what the TPM has seen.",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="attestation.json; - is standard input")
    parser.add_argument(
        "--key", required=True, type=Path, metavar="AK.pem",
        help="the machine's attestation key, from when it was enrolled; never the one in the attestation",
    )  # fmt: skip
    parser.add_argument(
        "--nonce", required=True, metavar="HEX", help="what the attestation was asked for with"
    )
    parser.add_argument(
        "--tpm-pcr", type=int, default=DEFAULT_PCR, metavar="N", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--base", default=ZERO.hex(), metavar="HEX",
        help="the PCR before Gantry's first event, where the system extends it as well (default: zeros)",
    )  # fmt: skip
    parser.add_argument("--format", choices=("text", "json"), default="text", help="(default: %(default)s)")
    args = parser.parse_args(argv)
    try:
        key = _load_key(args.key)
        verified = verify(
            attestations.parse(_read(args.file)),
            key,
            attestations.parse_nonce(args.nonce),
            check_pcr(args.tpm_pcr),
            _base(args.base),
        )
    except (ValueError, OSError) as error:
        print(f"gantry: error: {error}", file=sys.stderr)
        return 1
    print(_json(verified) if args.format == "json" else _text(verified))
    return 0


def _read(path: Path) -> str:
    if str(path) == "-":
        return sys.stdin.read(MAX_FILE)
    with path.open(encoding="utf-8") as file:
        return file.read(MAX_FILE)


def _load_key(path: Path) -> PublicKey:
    try:
        return load_key(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"--key {path}: {error}") from None


def _base(text: str) -> bytes:
    try:
        base = bytes.fromhex(text)
    except ValueError:
        base = b""
    if len(base) != DIGEST_BYTES:
        raise ValueError(f"--base {text!r}: expected {2 * DIGEST_BYTES} hexadecimal digits")
    return base


def _json(verified: Verified) -> str:
    made = {
        "pcr": verified.boot.pcr,
        "value": verified.value.hex(),
        "boot": verified.boot.record(),
        "clock": {
            "resets": verified.clock.resets,
            "restarts": verified.clock.restarts,
            "ms": verified.clock.clock,
        },
        "events": verified.events,
        "void": verified.void,
    }
    return json.dumps(made, indent=1)


def _text(verified: Verified) -> str:
    boot = verified.boot
    lines = [
        f"verified: {len(verified.events)} starts since {boot.time}",
        f"PCR {boot.pcr}: {verified.value.hex()}",
    ]
    for event in verified.events:
        lines += _event(event)
    if verified.void:
        lines.append(
            f"not measured, by the log's own word: {', '.join(str(e.get('pod')) for e in verified.void)}"
        )
    return "\n".join(line.translate(_VISIBLE).encode("utf-8", "replace").decode() for line in lines)


def _event(event: Event) -> list[str]:
    try:
        return [
            f"{event['time']} {event['pod']} uid {event['uid'] or '-'}",
            f"    manifest {event['manifest']}",
            f"    stage1 {event['stage1']['flavor']} {event['stage1']['digest']}",
            *(f"    app {app['name']} {app['image']}" for app in event["apps"]),
        ]
    except (KeyError, TypeError):
        return [f"not an event of Gantry's: {json.dumps(event)}"]


_VISIBLE: Final = {code: "?" for code in (*range(32), *range(127, 160)) if code != 10}
"""The log is the machine's word: nothing of it may move the cursor."""
