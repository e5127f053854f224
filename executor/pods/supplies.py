"""What comes with a pod's launch besides the pod itself. None of it is ever logged."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from executor.pods.objects import Objects
from executor.stage0.login import parse_docker_config
from shared.wire import Launch, digest_of

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Supplies:
    """handler: of the pod's RuntimeClass, "" when it has none, or one that is no more. credentials: (user, password) by
    registry, for the pod's images. objects: the ConfigMaps and Secrets that it uses; digest: theirs."""

    handler: str = ""
    credentials: Mapping[str, tuple[str, str]] = field(default_factory=dict, repr=False)
    objects: Objects = field(default_factory=Objects, repr=False)
    digest: str = ""


NOTHING: Final = Supplies()


def unpack(launch: Launch) -> Supplies:
    """What was in the envelope."""
    return Supplies(
        *(launch.runtime_handler, _credentials(launch.pull_secrets), Objects.from_json(launch.objects)),
        digest_of(launch.objects),
    )


def _credentials(documents: Iterable[Mapping[str, Any]]) -> dict[str, tuple[str, str]]:
    """Of several entries for one registry the first counts. One that is none is told by its key and left out."""
    found: dict[str, tuple[str, str]] = {}
    for document in documents:
        for key, entry in (document.get("auths") or {}).items():
            try:
                for registry, login in parse_docker_config({"auths": {key: entry}}).items():
                    found.setdefault(registry, login)
            except ValueError as error:
                log.warning("an imagePullSecret has an entry that is no login: %s", error)
    return found
