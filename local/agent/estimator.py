"""`--resource_estimator`: how many revocable resources an agent has, a fixed amount or what a file says each time.

Source: Mesos src/slave/resource_estimators/fixed.cpp.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from shared.mesos.resources import Resources

log = logging.getLogger(__name__)


def _marked(text: str) -> Resources:
    """All of it as revocable resources. Raises ValueError."""
    listed = [{**one, "revocable": {}} for one in Resources.parse(text.strip()).to_json()]
    return Resources.from_json(listed)


class Estimator:
    """Says how much there is."""

    def __init__(self, text: str) -> None:
        self._file = Path(text.removeprefix("file://")) if text.startswith("file://") else None
        self._last = Resources()
        if self._file is None:
            try:
                self._last = _marked(text)
            except ValueError as error:
                raise argparse.ArgumentTypeError(str(error)) from error

    def total(self) -> Resources:
        """Of now; a file that cannot be read changes nothing."""
        if self._file is not None:
            try:
                self._last = _marked(self._file.read_text())
            except (OSError, ValueError) as error:
                log.error("no new estimate: %s", error)
        return self._last
