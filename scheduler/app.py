"""`gantry scheduler`: reads the command line, and becomes what it says.

With a store of its own it is one process. With a store that several schedulers share (`zk://…`) it is two: a small
parent that stands for election and starts this very command again as its child, which then is the scheduler proper. So
nothing heavy is imported here.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys

from scheduler.election.messages import VARIABLE
from scheduler.exitcodes import USAGE
from scheduler.flags import UsageError, parser, zookeeper_of

FORMAT = "%(asctime)s %(levelname).1s %(name)s: %(message)s"


def main(argv: list[str]) -> int:
    """Runs until a signal; returns the exit code (see `flags.EPILOG`)."""
    try:
        args = parser().parse_args(argv)
        logging.basicConfig(stream=sys.stderr, level=args.log_level.upper(), format=FORMAT)
        if args.store.startswith("zk://") and VARIABLE not in os.environ:
            return _supervise(argv, args)
        from scheduler import instance
        from scheduler.config import settings_of

        return instance.run(settings_of(args))
    except UsageError as error:
        print(f"gantry: error: {error}", file=sys.stderr)  # noqa: T201 - the one line for the user
        return USAGE


def _supervise(argv: list[str], args: argparse.Namespace) -> int:
    from scheduler.election import supervisor

    settings = zookeeper_of(args)
    assert settings is not None
    return supervisor.run(argv, settings)
