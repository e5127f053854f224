"""Isolators that are not enforced here: rkt runs the pod without them, and so do we, but never without a word.

rkt warns of limits that the kernel does not know (stage1/init/common/app.go) and says nothing of isolators that it does
not know itself; here each is warned of. What keeps an app in, a label or a filter of system calls, is insisted on:
without it the run ends. (Pods of `gantry executor` insist on all of them unless it is told otherwise.)
"""

# ruff: noqa: T201  (a command line prints)

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from executor.pods.enforcing import facts, without_unenforceable
from executor.stage1 import lsm
from executor.stage1.isolators import CAPABILITIES, SECCOMP

_INSISTED: Final = frozenset({*lsm.ISOLATORS, *SECCOMP})
_ALWAYS: Final = frozenset(
    {*_INSISTED, *CAPABILITIES, "os/linux/no-new-privileges", "os/linux/oom-score-adj"}
)


def skip(manifest: dict[str, Any], flavor: str, pod: Path) -> dict[str, Any]:
    """The PodManifest without what would not be enforced; says so on stderr. pod: its directory."""
    if _names(manifest) <= _ALWAYS:
        return manifest
    made, said = without_unenforceable(manifest, flavor, facts(pod), insisted=_INSISTED)
    for line in said:
        print(f"warning: {line.replace('container ', 'app ', 1)}, skipping", file=sys.stderr)
    return made


def _names(manifest: Mapping[str, Any]) -> set[str]:
    found = {str(one["name"]) for one in manifest.get("isolators") or ()}
    for entry in manifest["apps"]:
        found |= {str(one["name"]) for one in (entry.get("app") or {}).get("isolators") or ()}
    return found
