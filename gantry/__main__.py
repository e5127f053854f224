"""Dispatch `gantry SUBCOMMAND …` to the room that does it, importing only that room."""

import sys
from importlib import import_module

from gantry import __version__

COMMANDS: dict[str, tuple[str, str]] = {
    "up": ("local.up", "run a whole cluster on this machine until Ctrl-C"),
    "demo": ("local.demo", "start a cluster, run examples/hello.yaml in it, show it, clean up"),
    "scheduler": ("scheduler.app", "the Mesos framework scheduler and its Kubernetes API"),
    "uninstall": ("scheduler.uninstall", "end the framework, kill its pods, remove its state (asks first)"),
    "executor": ("executor.app", "the Mesos executor (started by a Mesos agent)"),
    "backup": ("scheduler.backup.save", "write the whole state to a file, while schedulers run on it or not"),
    "restore": ("scheduler.backup.load", "make a store of a backup"),
    "rotate-keys": ("scheduler.rotation", "encrypt all Secrets in the store with the newest key"),
    "bundle": ("gantry.bundle", "pack Gantry into an archive that runs on machines without Python"),
    "image": ("executor.stage0.cli", "fetch, list, build and remove images on this machine"),
    "rkt": ("executor.rkt.cli", "rkt's command line: pods from images, without Mesos and without a daemon"),
    "node": ("executor.node.cli", "what this machine can do, and what would be done on it for a pod"),
    "master": ("local.master", "embedded Mesos master (for one machine, never for production)"),
    "agent": ("local.agent", "embedded Mesos agent (for one machine, never for production)"),
    "simulate": (
        "local.simulation",
        "many agents in one process whose tasks run nowhere, for tests of scale",
    ),
}


def usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items()]
    lines = [
        "usage: gantry COMMAND [options]",
        "",
        "commands:",
        *lines,
        "",
        "`gantry COMMAND --help` says more.",
    ]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand; returns its exit code. 2 for a command that does not exist, 130 after Ctrl-C."""
    args = sys.argv[1:] if argv is None else argv
    if not args or args[0] in {"-h", "--help", "help"}:
        print(usage())
        return 0 if args else 2
    if args[0] in {"-V", "--version", "version"}:
        print(f"gantry {__version__}")
        return 0
    if args[0] not in COMMANDS:
        print(f"gantry: error: no command {args[0]!r}; there are: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    try:
        return int(import_module(COMMANDS[args[0]][0]).main(args[1:]))
    except KeyboardInterrupt:
        print(f"gantry {args[0]}: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
