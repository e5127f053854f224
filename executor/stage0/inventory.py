"""What is in the store, and taking things out of it. Blocking; for the command line and later for garbage collection.

Removal refuses what a pod or a pull needs (pins), and what any process has in its mount table: overlayfs does not
survive losing a lower directory.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from executor.stage0 import cas, gc, names
from executor.stage0.cas import Cas
from executor.stage0.errors import ImageNotFound, ImageRefused, InvalidImageName
from executor.stage0.streams import Limits

if TYPE_CHECKING:  # the store brings an HTTP client, which looking does not need
    from executor.stage0.store import Image


def describe(image: "Image") -> dict[str, Any]:
    """An image for people and scripts (`--json`)."""
    check = image.verification
    return {
        "id": image.id,
        "digest": image.digest,
        "names": list(image.names),
        "layers": [str(path) for path in image.layers],
        "config": image.config.to_json(),
        "verification": {"digest": check.digest, "how": check.how, "time": check.time},
    }


def images(state_dir: Path) -> list[dict[str, Any]]:
    """Every image record with its names and unpacked size; nothing is created when there is no store."""
    store = _store(state_dir)
    if store is None:
        return []
    with cas.storage_errors(f"the image store {store.root}"):
        by_id: dict[str, list[str]] = {}
        for name in store.names():
            by_id.setdefault(name["id"], []).append(name["name"])
        rows = []
        for record in store.images():
            size = sum(store.usage(layer).bytes for layer in dict.fromkeys(record["layers"]))
            rows.append({**record, "names": sorted(by_id.get(record["id"], [])), "bytes": size})
        return rows


def remove(state_dir: Path, ref: str, needed: gc.Needed = gc.nothing) -> list[str]:
    """Remove a name, or an image by id; the image goes with its last name, layers with their last image.

    needed: as in `gc.collect`. Gives what was removed (names, ids, diff_ids). ImageNotFound; ImageRefused while a pod
    uses it.
    """
    store = _store(state_dir)
    if store is None:
        raise ImageNotFound(f"{ref}: there is no image store in {state_dir}")
    with cas.storage_errors(f"the image store {store.root}"):
        store.open()
        return _remove(store, ref, needed)


def _remove(store: Cas, ref: str, needed: gc.Needed) -> list[str]:
    name, image_id = target(store, ref)
    everything = store.names()
    mine = [n for n in everything if n["id"] == image_id]
    doomed = [n for n in mine if n["name"] == name] if name else mine
    removed = [n["name"] for n in doomed]
    record = next((r for r in store.images() if r["id"] == image_id), None)
    if record is None or len(doomed) < len(mine):
        for entry in doomed:
            store.name_path(entry["name"]).unlink(missing_ok=True)
        return removed
    _refuse_in_use(store, ref, record["layers"])
    try:
        layers = gc.remove_image(store, image_id, needed)
    except ImageRefused:
        raise ImageRefused(f"{ref}: is in use by a pod or a pull; delete its pod first") from None
    return [*removed, image_id, *layers]


def target(store: Cas, ref: str) -> tuple[str, str]:
    """(name, id): by name as it was fetched, else by a unique prefix of an id."""
    try:
        reference = names.parse(ref)
    except InvalidImageName:
        reference = None
    if reference is not None and not isinstance(reference, names.Stored):
        record = store.load_name(str(reference))
        if record is not None:
            return record["name"], record["id"]
    hexdigits = re.fullmatch(r"(?:sha256:|sha512-)?([0-9a-f]{2,})", ref)
    ids = [r["id"] for r in store.images() if hexdigits and r["id"][7:].startswith(hexdigits[1])]
    if len(ids) == 1:
        return "", ids[0]
    if ids:
        raise ImageNotFound(f"{ref}: is ambiguous: {', '.join(i[:19] for i in ids[:5])}")
    there = ", ".join(sorted(n["name"] for n in store.names())[:10]) or "none"
    raise ImageNotFound(f"{ref}: no such image in the store (there are: {there})")


def _refuse_in_use(store: Cas, ref: str, layers: list[str]) -> None:
    trees = [store.layer_dir(layer).name for layer in layers]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            mounts = (process / "mountinfo").read_text(errors="replace")
        except OSError:
            continue  # it ended meanwhile
        if any(tree in mounts for tree in trees):
            raise ImageRefused(f"{ref}: is in use by process {process.name}; delete its pod first")


def _store(state_dir: Path) -> Cas | None:
    root = state_dir / "store"
    return Cas(root, Limits()) if root.is_dir() else None
