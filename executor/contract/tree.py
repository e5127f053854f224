"""Where things are in the directory of a pod that somebody else's stage1 runs, and the steps that put them there.
rkt's layout.

stage1/{manifest,lower,name}                   the stage1's image manifest; its rendered trees, uppermost first; what
it is called stage1TreeStoreID, appsinfo/APP/treeStoreID    names for trees, from what they are made of
overlay/TREE/{upper,work}[/APP]                what is written: by stage1 (without APP), by the apps
stage1/rootfs, stage1/rootfs/opt/stage2/APP/rootfs    where they are mounted, in the holder's mounts only
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from executor.contract.interface import ROOTFS, Stage1
from executor.contract.manifest import SHARED, Foreign, Place
from executor.stage0.removal import remove_tree

Step = dict[str, Any]


def tree_id(role: str, layers: Iterable[str]) -> str:
    """A name for what these trees, one above the other, show. role: a stage1's own never coincides with an app's."""
    text = ",".join([role, *layers])
    return f"deps-sha512-{hashlib.sha512(text.encode()).hexdigest()[:64]}"


def put(path: Path, text: str) -> None:
    """A file, whole or not at all."""
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(text, encoding="utf-8")
    temporary.rename(path)


def write(pod_dir: Path, stage1: Stage1, layers: Sequence[Path], foreign: Foreign) -> None:
    """The files that tell of the images; can be done again. Raises OSError."""
    (pod_dir / ROOTFS).mkdir(parents=True, exist_ok=True)
    (pod_dir / "overlay").mkdir(exist_ok=True)
    (pod_dir / SHARED).mkdir(exist_ok=True)
    lower = [str(layer) for layer in layers]
    (pod_dir / "stage1" / "name").write_text(stage1.name)
    (pod_dir / "stage1" / "lower").write_text("".join(f"{one}\n" for one in lower))
    put(pod_dir / "stage1TreeStoreID", tree_id("stage1", lower))
    for app in foreign.manifest["apps"]:
        write_app(pod_dir, app["name"])
    put(pod_dir / "stage1" / "manifest", json.dumps(dict(stage1.manifest)))


def write_app(pod_dir: Path, app: str) -> None:
    """Likewise, of one app."""
    info = pod_dir / "appsinfo" / app
    put(info / "treeStoreID", tree_id("app", _lines(info / "lower")))


def write_pod(pod_dir: Path, manifest: Mapping[str, Any]) -> None:
    """The PodManifest as it is now: of a mutable pod, with the apps that are in it."""
    put(pod_dir / "pod", json.dumps(manifest))


USERS: Final = "private-users-prepared"
"""rkt's name of a file with the ids of the pod's own: FIRST:COUNT. What is written in the overlays belongs to these."""


def upper(pod_dir: Path) -> Path:
    """What stage1 has written to its root file system."""
    return pod_dir / "overlay" / (pod_dir / "stage1TreeStoreID").read_text() / "upper"


def place_steps(places: Iterable[Place], ids: int = 0) -> list[Step]:
    """Volumes, before anything that uses them. ids: the first one of the pod, if it has some of its own."""
    made: list[Step] = []
    for place in places:
        if place.kind == "below":
            made.append({"do": "below", "source": place.source, "path": place.path, "target": place.target})
        else:
            kind = "directory" if place.kind == "empty" else "memory"
            made.append({"do": kind, **place._asdict(), "ids": ids})
    return made


def stage1_steps(pod_dir: Path, ids: int = 0) -> list[Step]:
    """Mount the stage1's root file system. ids: as in `place_steps`."""
    root = pod_dir / "overlay" / (pod_dir / "stage1TreeStoreID").read_text()
    return [
        _overlay(pod_dir, "", _lines(pod_dir / "stage1" / "lower"), root / "upper", root / "work", ids),
        *({"do": "directory", "target": str(pod_dir / ROOTFS / "rkt" / name), "mode": 0o755, "uid": ids, "gid": ids}
          for name in ("status", "env")),
    ]  # fmt: skip


def app_steps(pod_dir: Path, app: str, ids: int = 0) -> list[Step]:
    """Mount an app's root file system into the stage1's. ids: as in `place_steps`."""
    info = pod_dir / "appsinfo" / app
    root = pod_dir / "overlay" / (info / "treeStoreID").read_text()
    place = f"opt/stage2/{app}"
    top = str(pod_dir / ROOTFS)
    return [
        {"do": "file", "root": top, "path": f"{place}/manifest", "text": (info / "manifest").read_text()},
        _overlay(
            pod_dir, f"{place}/rootfs", _lines(info / "lower"), root / "upper" / app, root / "work" / app, ids
        ),
        {"do": "mtab", "root": str(pod_dir / ROOTFS / place / "rootfs")},
    ]


def _overlay(pod_dir: Path, path: str, lower: Sequence[str], upper: Path, work: Path, ids: int) -> Step:
    return {
        "do": "overlay", "root": str(pod_dir / ROOTFS), "path": path,
        "lower": list(lower), "upper": str(upper), "work": str(work), "ids": ids,
    }  # fmt: skip


def forget_app(pod_dir: Path, app: str) -> None:
    """What an app has written, and no other app of the same image (which rkt's own `app rm` took along). Slow."""
    root = pod_dir / "overlay" / (pod_dir / "appsinfo" / app / "treeStoreID").read_text()
    for name in ("upper", "work"):
        _empty(root / name / app)


def forget_all(pod_dir: Path) -> None:
    """What stage1 and its apps have written, their process ids too: for a pod that is run again. Slow."""
    _empty(pod_dir / "overlay")
    for name in ("pid", "ppid", "pgid", "subcgroup", USERS):
        (pod_dir / name).unlink(missing_ok=True)


def _empty(path: Path) -> None:
    if path.is_dir():
        remove_tree(path)


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()


def entrypoint(pod_dir: Path, stage1: Stage1, what: str) -> str:
    """The program, as the holder sees it."""
    return os.path.join(pod_dir, ROOTFS, stage1.entrypoints[what].lstrip("/"))
