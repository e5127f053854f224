"""`export`: the root of an app that has ended, as an ACI: its image with what it wrote over it.

Nothing is mounted: what overlayfs left is merged with the image's layers as overlayfs would (executor/stage0/aci).
"""

import json
import os
import stat
from pathlib import Path
from typing import Any, Final

from executor.contract.tree import USERS
from executor.rkt.common import Globals, need_root, words
from executor.rkt.end import take
from executor.rkt.enter import only_app
from executor.rkt.flags import Failure
from executor.rkt.podmanifest import KVM
from executor.rkt.pods import Seen, find
from executor.stage0 import aci, build
from executor.stage0.errors import ImageError
from executor.stage0.removal import remove_if_there
from executor.stage0.tarwrite import walk

_SHOWN: Final = 200  # characters of a path
_INDIRECT: Final = ("trusted.overlay.redirect", "trusted.overlay.metacopy")


def main(g: Globals, args: list[str]) -> int:
    """`export [--app=NAME] UUID FILE.aci`."""
    flags = g.flags("[flags] UUID OUTPUT_ACI")
    flags.text("app", "", "which app, of a pod with several")
    flags.switch("overwrite", "replace the file that is there")
    found = words(flags, args)
    if len(found) != 2:
        raise Failure("name UUID and OUTPUT_ACI")
    target = Path(os.path.abspath(found[1]))
    if target.suffix != ".aci":
        raise Failure(f"extension must be .aci (given {found[1]})")
    if os.path.lexists(target) and not flags.is_on("overwrite"):
        raise Failure("output ACI file exists (try --overwrite)")
    need_root()
    pod = find(g.pods, found[0])
    if not pod.ended:
        raise Failure("pod is not exited. Only exited pods can be exported")
    app = flags.values["app"] or only_app(pod)
    if app not in [one["name"] for one in pod.apps()]:
        raise Failure(f'pod "{pod.uuid}" has no app {app!r}')
    try:
        lock = take(pod).lock  # nobody removes it meanwhile
    except FileNotFoundError:
        raise Failure(f'pod "{pod.uuid}" has just been removed') from None
    try:
        _export(g, pod, app, target)
    except ImageError as error:
        raise Failure(f"error building aci: {error}") from None
    except OSError as error:
        name = str(error.filename)
        shown = name if len(name) < _SHOWN else f"{name[:_SHOWN]}…"
        raise Failure(f"error building aci: {shown}: {error.strerror}") from None
    finally:
        os.close(lock)
    return 0


def _export(g: Globals, pod: Seen, app: str, target: Path) -> None:
    upper, ids = _written(pod, app)
    trees = [upper] if upper.is_dir() else []
    if trees:
        _check(g, upper)
    trees += [Path(line) for line in (pod.path / "appsinfo" / app / "lower").read_text().splitlines()]
    work = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        work.mkdir(mode=0o755)
        root = os.open(work, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            notes = {note["name"]: note["value"] for note in pod.manifest().get("annotations") or ()}
            in_machine = upper.is_dir() and notes.get("gantry.io/flavor") == KVM
            # executor/kvm/machine.py, guest_manifest
            aci.render(trees, root, user_attributes=in_machine, ids=ids if upper.is_dir() else 0)
        finally:
            os.close(root)
        build.build_aci(work, target, _manifest(pod, app), build.Options(epoch=None), "none")
    finally:
        remove_if_there(work)


def _written(pod: Seen, app: str) -> tuple[Path, int]:
    """Where what an app has written is, and the first of the ids that it belongs to, if not to whom it says."""
    if not pod.stage1_id():
        return pod.path / "overlay" / app / "upper", 0
    tree = (pod.path / "appsinfo" / app / "treeStoreID").read_text()  # executor/contract/tree
    try:
        ids = int((pod.path / USERS).read_text().partition(":")[0])
    except FileNotFoundError:
        ids = 0
    return pod.path / "overlay" / tree / "upper" / app, ids


def _manifest(pod: Seen, app: str) -> dict[str, Any]:
    """The image's, but for what the content has swallowed."""
    manifest = json.loads((pod.path / "appsinfo" / app / "manifest").read_bytes())
    return {key: value for key, value in manifest.items() if key not in {"dependencies", "pathWhitelist"}}


def _check(g: Globals, upper: Path) -> None:
    """Tell what is left out. Failure for a path of which overlayfs has not all that it shows."""
    top = os.open(upper, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for path, info in walk(top):
            if stat.S_ISSOCK(info.st_mode):
                g.say(f"warning: /{path}: a socket, left out")
            elif (stat.S_ISDIR(info.st_mode) or stat.S_ISREG(info.st_mode)) and _is_indirect(top, path):
                why = "overlayfs has only noted that it was renamed; cannot be exported"
                raise Failure(f"error building aci: /{path}: {why}")
    finally:
        os.close(top)


def _is_indirect(top: int, path: str) -> bool:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=top)
    try:
        return bool(set(_INDIRECT) & set(os.listxattr(fd)))
    finally:
        os.close(fd)
