"""How commands that do one thing (backup, uninstall, …) end: with what they say, or one line of error and a code."""

import logging
import sys
from collections.abc import Callable, Mapping

from scheduler import exitcodes


def run(work: Callable[[], str], codes: Mapping[type[Exception], int]) -> int:
    """Does `work` and prints what it says; returns the exit code.

    codes: of the errors that were foreseen; of several that fit the first counts. Others are bugs and propagate.
    """
    logging.basicConfig(stream=sys.stderr, level="WARNING", format="%(levelname)s %(name)s: %(message)s")
    try:
        print(work())  # noqa: T201 - the answer
    except tuple(codes) as error:
        print(f"gantry: error: {error}", file=sys.stderr)  # noqa: T201 - the one line for the user
        return next(code for kind, code in codes.items() if isinstance(error, kind))
    return exitcodes.OK
