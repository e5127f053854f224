"""`prepare`, and the first half of `run`: from images to a pod directory that can be run.

new() ─▶ embryo (locked) ─▶ images found ─▶ prepare: layers, manifests, volumes ─▶ prepared | run
"""

# ruff: noqa: T201  (a command line prints)

import asyncio
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from executor.pods.poddir import Phase, PodDir, PodDirs
from executor.rkt.common import Globals, need_root
from executor.rkt.flags import Failure
from executor.rkt.inside import Inside
from executor.rkt.podflags import PodFlags
from executor.rkt.podmanifest import Fill, Source, build, mounts, settle
from executor.rkt.pods import CREATED, UNVERIFIED
from executor.rkt.stage1 import FOREIGN


@dataclass
class Making:
    """A pod that is being made. `holds` are its images; `drop` lets go of them and removes it as well."""

    pod: PodDir
    manifest: dict[str, Any] = field(default_factory=dict)
    holds: ExitStack = field(default_factory=ExitStack)
    digests: dict[str, str] = field(default_factory=dict)
    """Of the images as they were found, by app."""
    unverified: bool = False
    """Somebody said --insecure-options=image when the pod was made."""

    def drop(self) -> None:
        self.holds.close()
        self.pod.remove()

    def _drop_unprepared(self) -> None:
        if self.pod.phase is not Phase.PREPARED:
            self.drop()

    @contextmanager
    def or_nothing(self) -> Iterator[None]:
        """What fails in here takes the pod along; not one that is prepared, and so somebody's."""
        with ExitStack() as undo:
            undo.callback(self._drop_unprepared)
            yield
            undo.pop_all()


def new(g: Globals) -> Making:
    """An empty pod. Failure."""
    need_root()
    dirs = PodDirs(g.pods)
    try:
        dirs.open()
        return Making(dirs.create(str(uuid4())))
    except OSError as error:
        raise Failure(f"error creating new pod: {error.filename}: {error.strerror}") from None


def main(g: Globals, args: list[str]) -> int:
    """`prepare IMAGE…`: prints the UUID of the pod."""
    flags = g.flags("[flags] IMAGE [flags] [-- ARGS… [---]] …")
    flags.switch("quiet", "print nothing but the UUID")
    asked = PodFlags.add(flags, makes=True, runs=False)
    flags.parse(args, asked.apps.word, asked.apps.argument)
    need_root()
    asked.check(g)
    making = new(g)
    with making.or_nothing():
        asyncio.run(fill(g, asked, making, quiet=flags.is_on("quiet")))
        if g.debug:
            g.say("Writing pod manifest")
        making.pod.write_manifest(making.manifest)
        if making.unverified:
            (making.pod.path / UNVERIFIED).touch(0o644)
        making.pod.move(Phase.PREPARED)
    making.holds.close()
    os.close(making.pod.lock)
    print(making.pod.name)
    return 0


async def fill(g: Globals, asked: PodFlags, making: Making, *, quiet: bool = False) -> None:
    """Find the images and make everything but the manifest's file, which says how it is run, too. Failure."""
    from executor.rkt.images import policy
    from executor.rkt.lookup import Finder

    flags, choice = asked.flags, asked.stage1(g)
    flavor = choice.flavor
    manifest_path = flags.values["pod-manifest"]
    say = (lambda _: None) if quiet else (lambda text: g.say(f"image: {text}"))
    finder = Finder(g, "never" if manifest_path else policy(flags), say)
    if manifest_path:
        manifest, wanted = _given(manifest_path)
    else:
        manifest, wanted = {}, [(app.image, app.texts.get("signature", "")) for app in asked.apps.apps]
    sources, layers, digests = [], [], []
    for text, signature in wanted:
        image, store = await finder.find(text, signature)
        making.holds.enter_context(_closing(store.hold(image)))
        sources.append(source_of(g, image.id))
        layers.append(image.layers)
        digests.append(image.digest)
    if manifest_path:
        fills = _complete(manifest, sources)
    else:
        manifest, fills = build(asked.apps, sources, asked.environments(), flavor)
        manifest["ports"] = asked.ports()
    for entry in manifest["apps"]:
        if entry["app"].get("eventHandlers"):
            settle(entry, handlers="root")  # whoever the app is (rkt `tests/rkt_run_test.go`, TestPreStart)
    check_sources(manifest, 1 if flavor in {"linux", "nspawn"} else None)  # what nspawn says
    users = ("private" if flags.is_on("private-users") else "host") if "private-users" in flags.given else ""
    settle(manifest, flavor=flavor, user_namespace=users)
    making.manifest = manifest
    making.digests = dict(zip((str(entry["name"]) for entry in manifest["apps"]), digests, strict=True))
    making.unverified = "image" in g.insecure
    await asyncio.to_thread(_write, making.pod, manifest, sources, layers, fills)
    if flavor == FOREIGN:
        from executor.rkt import foreign

        await foreign.prepare(g, choice, making)


def _closing(hold: Any) -> ExitStack:
    stack = ExitStack()
    stack.callback(hold.close)
    return stack


def source_of(g: Globals, image_id: str) -> Source:
    """What a pod has to know of an image. Failure."""
    from executor.stage0 import operations
    from executor.stage0.errors import ImageError

    try:
        with operations.opened(g.data, image_id) as image:
            manifest = operations.appc_manifest(image)
            notes = {note["name"] for note in manifest.get("annotations") or ()}
            docker = not image.is_aci or "appc.io/docker/repository" in notes  # as rkt tells them
            return Source(manifest, image_id, docker)
    except ImageError as error:
        raise Failure(f"error getting the manifest: {error}") from None


def _given(path: str) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """A PodManifest of the user's, and the images it wants. Failure."""
    from executor.stage0.acpod import parse_pod
    from executor.stage0.errors import ImageBroken

    try:
        manifest = parse_pod(Path(path).read_bytes())
    except OSError as error:
        raise Failure(f"error reading pod manifest: {path}: {error.strerror}") from None
    except ImageBroken as error:
        raise Failure(f"{path}: {error}") from None
    if not manifest.get("apps"):
        raise Failure("pod must contain at least one application")
    return manifest, [(str(app["image"]["id"]), "") for app in manifest["apps"]]


def _complete(manifest: dict[str, Any], sources: Sequence[Source]) -> list[Fill]:
    """What a PodManifest leaves to its images: the app, and volumes for mount points. Failure."""
    volumes = {volume["name"]: volume for volume in manifest.get("volumes") or ()}
    fills: list[Fill] = []
    for entry, source in zip(manifest["apps"], sources, strict=True):
        entry["image"] = {**entry["image"], "id": source.image_id}
        entry["app"] = entry.get("app") or source.manifest.get("app")
        if not entry["app"]:
            raise Failure("no app section in the pod manifest or the image manifest")
        given = list(entry.get("mounts") or ())
        for mount in given:
            if mount.get("appVolume"):
                volumes.setdefault(mount["volume"], mount.pop("appVolume"))
        made, more = mounts(entry, [(m["volume"], m["path"]) for m in given], volumes, docker=source.docker)
        paths = {mount["path"] for mount in given}
        entry["mounts"] = given + [mount for mount in made if mount["path"] not in paths]
        fills += more
    manifest["volumes"] = list(volumes.values())
    return fills


def check_sources(manifest: dict[str, Any], code: int | None = None) -> None:
    """Volumes of the host: links are followed once, here; devices may be opened. Failure, with this code, for what is
    not there."""
    for volume in manifest.get("volumes") or ():
        if volume["kind"] != "host":
            continue
        volume["source"] = os.path.realpath(volume["source"])
        try:
            mode = os.stat(volume["source"]).st_mode
        except OSError as error:
            why = f"volume {volume['name']}: Failed to stat {volume['source']}: {error.strerror}"  # nspawn's words
            raise Failure(why, code) from None
        if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            volume["gantry.io/device"] = True
            volume["recursive"] = False


def _write(
    pod: PodDir,
    manifest: dict[str, Any],
    sources: Sequence[Source],
    layers: Sequence[tuple[Path, ...]],
    fills: Sequence[Fill],
) -> None:
    names = [str(entry["name"]) for entry in manifest["apps"]]
    pod.prepare(names)
    trees = dict(zip(names, layers, strict=True))
    for name, source in zip(names, sources, strict=True):
        pod.write_app(name, str(source.manifest["name"]), source.image_id, trees[name], source.manifest)
        _link_mtab(pod.path / "overlay" / name / "upper", trees[name])
    for one in fills:
        _fill_volume(pod.path / "sharedVolumes" / one.volume, trees[one.app], one.path)
    (pod.path / CREATED).touch(0o644)


def write_app(pod: PodDir, name: str, source: Source, layers: Sequence[Path], fills: Sequence[Fill]) -> None:
    """One app more, of a pod that runs. Slow: for a thread."""
    (pod.path / "appsinfo" / name).mkdir()
    pod.write_app(name, str(source.manifest["name"]), source.image_id, layers, source.manifest)
    _link_mtab(pod.path / "overlay" / name / "upper", layers)
    for one in fills:
        _fill_volume(pod.path / "sharedVolumes" / one.volume, layers, one.path)


def _fill_volume(target: Path, layers: Sequence[Path], path: str) -> None:
    """A new volume with what the image has at a path, its owner and mode included, as Docker makes them."""
    from executor.stage0 import aci

    found = _subtrees(layers, Inside([str(layer) for layer in layers]).follow(path)[0])
    try:
        if not found:
            return  # stage1 makes an empty one
        target.mkdir(parents=True, mode=0o755)
        root = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            aci.render([Path(f"/proc/self/fd/{fd}") for fd in found], root)
        finally:
            os.close(root)
    finally:
        for fd in found:
            os.close(fd)


def _link_mtab(upper: Path, layers: Sequence[Path]) -> None:
    """As rkt (`stage0/run.go`): /etc/mtab, where the image has an /etc without one; in what the app writes over it."""
    found = _subtrees(layers, "/etc")
    try:
        if not found or any("mtab" in os.listdir(fd) for fd in found):
            return
        info, root = os.fstat(found[0]), layers[0].stat()
        for path, like in ((upper, root), (upper / "etc", info)):
            path.mkdir(parents=True, mode=0o700)
            os.chown(path, like.st_uid, like.st_gid)
            path.chmod(stat.S_IMODE(like.st_mode))
        (upper / "etc/mtab").symlink_to("../proc/self/mounts")
        for path, like in ((upper / "etc", info), (upper, root)):
            os.utime(path, ns=(like.st_atime_ns, like.st_mtime_ns))
    finally:
        for fd in found:
            os.close(fd)


def _subtrees(layers: Sequence[Path], path: str) -> list[int]:
    """The directory in each layer that has it, uppermost first, down to what hides the others. No links are followed:
    what they lead to may be in other layers."""
    found: list[int] = []
    for layer in layers:
        fd = os.open(layer, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        opaque = False
        for part in (part for part in path.split("/") if part):
            try:
                below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
            except FileNotFoundError:
                break
            except OSError:  # a whiteout, a link or a file
                opaque = True
                break
            os.close(fd)
            fd = below
            opaque = opaque or "trusted.overlay.opaque" in os.listxattr(fd)
        else:
            found.append(fd)
            fd = -1
        if fd >= 0:
            os.close(fd)
        if opaque:
            break
    return found
