"""`gantry node`: looks at this machine, and at pods that could run on it; changes nothing."""

import argparse
import asyncio
import json
import sys
from pathlib import Path
from typing import Final

from executor.node import doctor, planning
from executor.node.machines import ALL_FLAVORS
from executor.tpm import cli as tpm

DEFAULT: Final = ("linux", "fly")


def main(argv: list[str]) -> int:
    """`gantry node doctor|plan`. 1: a flavor does not work that has to, or there is no plan; 2: wrong usage."""
    if argv and argv[0] in tpm.COMMANDS:
        return tpm.main(argv)
    args = _parser().parse_args(argv)
    try:
        if args.command == "doctor":
            flavors = asyncio.run(doctor.examine(args.state_dir, args.kvm_kernel))
            report = {"flavors": flavors}
            sys.stdout.write(json.dumps(report, indent=2) + "\n" if args.json else doctor.text(flavors))
            wanted = args.flavor or DEFAULT
            return 0 if all(doctor.works(flavors[flavor]) for flavor in wanted) else 1
        made = asyncio.run(
            planning.plan_file(args.file, args.state_dir, args.local_images, args.default_flavor)
        )
        sys.stdout.write(json.dumps(made, indent=2) + "\n" if args.json else planning.text(made))
    except (planning.PlanError, OSError) as error:
        why = (
            f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else error
        )
        print(f"gantry: error: {why}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="gantry node", description="Look at this machine as a node.")
    commands = made.add_subparsers(dest="command", required=True)
    looks = commands.add_parser("doctor", help="what this machine can do, flavor by flavor, and why not")
    looks.add_argument(
        "--flavor", action="append", choices=ALL_FLAVORS,
        help=f"that has to work, or the exit code is 1; may be given several times (default: {', '.join(DEFAULT)})",
    )  # fmt: skip
    looks.add_argument("--kvm-kernel", type=Path, metavar="FILE", help="as the executor's")
    plans = commands.add_parser("plan", help="print what would be done for a pod, in order, and do nothing")
    for verb, text in tpm.COMMANDS.items():
        commands.add_parser(verb, help=text)
    for one in (looks, plans):
        one.add_argument("--json", action="store_true", help="for programs")
        one.add_argument(
            "--state-dir", type=Path, default=Path("/var/lib/gantry"), metavar="DIR",
            help="of the executor (default: %(default)s)",
        )  # fmt: skip
    plans.add_argument("--local-images", type=Path, metavar="DIR", help="as the executor's")
    plans.add_argument(
        "--default-flavor", choices=ALL_FLAVORS, default="linux", help="of pods without runtimeClassName"
    )
    plans.add_argument(
        "file", type=Path, metavar="FILE", help="a v1 Pod (YAML or JSON), or an appc PodManifest (JSON)"
    )
    return made
