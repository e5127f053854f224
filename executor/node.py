"""`gantry node …`: what one machine can do and has done, without Mesos and without a daemon."""

import sys
from importlib import import_module
from typing import Final

COMMANDS: Final[dict[str, tuple[str, str, str]]] = {
    "attest": ("executor.tpm.cli", "attest_main", "have the TPM sign which pods were started"),
    "verify-attestation": ("executor.tpm.cli", "verify_main", "verify what `gantry node attest` printed"),
}


def usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, (_, _, text) in COMMANDS.items()]
    return "\n".join(["usage: gantry node COMMAND [options]", "", "commands:", *lines])


def main(argv: list[str]) -> int:
    """`gantry node`. Returns the exit code, 2 for a command that does not exist."""
    if not argv or argv[0] in {"-h", "--help", "help"}:
        print(usage())  # noqa: T201
        return 0 if argv else 2
    if argv[0] not in COMMANDS:
        there_are = ", ".join(COMMANDS)
        print(f"gantry: error: no command {argv[0]!r} of node; there are: {there_are}", file=sys.stderr)  # noqa: T201
        return 2
    module, function, _ = COMMANDS[argv[0]]
    return int(getattr(import_module(module), function)(argv[1:]))
