"""`export`: the root of an app that has ended, as an ACI: its image with what it wrote over it.

Nothing is mounted: what overlayfs left is merged with the image's layers as overlayfs would (executor/stage0/aci).
"""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from executor.rkt.common import Globals, need_root, words
from executor.rkt.end import take
from executor.rkt.enter import only_app
from executor.rkt.flags import Failure
from executor.rkt.podmanifest import KVM
from executor.rkt.pods import Seen, find
from executor.stage0 import aci, build
from executor.stage0.errors import ImageError

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
        _export(pod, app, target)
    except ImageError as error:
        raise Failure(f"error building aci: {error}") from None
    except OSError as error:
        raise Failure(f"error building aci: {error.filename}: {error.strerror}") from None
    finally:
        os.close(lock)
    return 0


def _export(pod: Seen, app: str, target: Path) -> None:
    upper = pod.path / "overlay" / app / "upper"
    trees = [upper] if upper.is_dir() else []
    for path in _indirect(upper):
        raise Failure(
            f"error building aci: {path}: overlayfs has only noted that it was renamed; cannot be exported"
        )
    trees += [Path(line) for line in (pod.path / "appsinfo" / app / "lower").read_text().splitlines()]
    work = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        work.mkdir(mode=0o755)
        root = os.open(work, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            notes = {note["name"]: note["value"] for note in pod.manifest().get("annotations") or ()}
            in_machine = upper.is_dir() and notes.get("gantry.io/flavor") == KVM
            aci.render(trees, root, user_attributes=in_machine)  # executor/kvm/machine.py, guest_manifest
        finally:
            os.close(root)
        build.build_aci(work, target, _manifest(pod, app), build.Options(epoch=None), "none")
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _manifest(pod: Seen, app: str) -> dict[str, Any]:
    """The image's, but for what the content has swallowed."""
    manifest = json.loads((pod.path / "appsinfo" / app / "manifest").read_bytes())
    return {key: value for key, value in manifest.items() if key not in {"dependencies", "pathWhitelist"}}


def _indirect(upper: Path) -> Iterator[str]:
    for directory, _, files in os.walk(upper):
        for path in (directory, *(f"{directory}/{name}" for name in files)):
            if set(_INDIRECT) & set(os.listxattr(path, follow_symlinks=False)):
                yield path
