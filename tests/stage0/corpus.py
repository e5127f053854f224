"""The malicious corpus: archives and manifests that try to get out, to go on for ever or to break what reads them.

Plain data: `cases(victim)` gives (name, kind, bytes, whether it may be taken). kind: "layer" (a plain tar), "blob" (a
layer as it is transferred, promised as the tar of nothing), "manifest", "config", "index" (JSON of an OCI image),
"aci", "aci-manifest", "docker" (a docker-archive), "oci" (an oci-archive). victim: an absolute path outside, which
absolute names and links aim at.
"""

import os

from tests.stage0.corpus_documents import acis, archives, oci_documents
from tests.stage0.corpus_tars import (
    Case,
    bombs,
    devices,
    duplicates,
    extended,
    links,
    names,
    numbers,
    truncated,
    whiteouts,
)


def cases(victim: str) -> list[Case]:
    """The whole corpus."""
    aim = os.fsencode(victim)
    made = [
        *names(aim), *links(aim), *whiteouts(aim), *devices(), *numbers(), *extended(), *duplicates(aim), *bombs(),
        *truncated(), *oci_documents(), *acis(aim), *archives(aim),
    ]  # fmt: skip
    assert len({case.name for case in made}) == len(made)
    return made
