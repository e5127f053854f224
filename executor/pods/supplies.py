"""What comes with a pod's launch besides the pod itself."""

from dataclasses import dataclass
from typing import Final

from shared.wire import Launch


@dataclass(frozen=True, slots=True)
class Supplies:
    """handler: of the pod's RuntimeClass, "" when it has none, or one that is no more."""

    handler: str = ""


NOTHING: Final = Supplies()


def unpack(launch: Launch) -> Supplies:
    """What was in the envelope."""
    return Supplies(launch.runtime_handler)
