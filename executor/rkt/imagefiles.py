"""`image export|extract|render`: images of the store as files."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from executor.rkt import lookup
from executor.rkt.common import Globals, to_json, words
from executor.rkt.flags import Failure, Flags
from executor.stage0 import aci, build, operations
from executor.stage0.errors import ImageError
from executor.stage0.operations import Stored
from executor.stage0.removal import remove_if_there, remove_tree


def export(g: Globals, args: list[str]) -> int:
    """`image export IMAGE FILE`: an ACI bit by bit, uncompressed; a docker or OCI image as docker2aci makes one."""
    flags = g.flags("[flags] IMAGE OUTPUT_ACI")
    flags.switch("overwrite", "replace the file that is there")
    text, target = _two(flags, args, "IMAGE and OUTPUT_ACI")
    image = lookup.in_store(g, text)
    if os.path.lexists(target):
        if not flags.is_on("overwrite"):
            raise Failure("output ACI file exists (try --overwrite)")
        if target.is_dir():
            raise Failure(f"{target}: is a directory")
    with _failures(text):
        part = target.with_name(f".{target.name}.part")
        part.unlink(missing_ok=True)
        try:
            if image.is_aci:
                operations.export_aci(image, part)
            else:
                _build(image, part)
            part.rename(target)
        finally:
            part.unlink(missing_ok=True)
    return 0


def _build(image: Stored, target: Path) -> None:
    with _scratch(target) as tree:
        operations.render(image, tree)
        manifest = operations.appc_manifest(image)
        build.build_aci(tree, target, manifest, build.Options(epoch=None), "none")


def extract(g: Globals, args: list[str]) -> int:
    """`image extract IMAGE DIR`: what the image's own archive holds; dependencies are images of their own."""
    return _unpack(g, args, own=True)


def render(g: Globals, args: list[str]) -> int:
    """`image render IMAGE DIR`: the whole root file system, with all dependencies."""
    return _unpack(g, args, own=False)


def _unpack(g: Globals, args: list[str], *, own: bool) -> int:
    flags = g.flags("[flags] IMAGE OUTPUT_DIR")
    flags.switch("rootfs-only", "the root file system's files, without manifest and rootfs/")
    flags.switch("overwrite", "remove the directory that is there, and everything in it")
    text, target = _two(flags, args, "IMAGE and OUTPUT_DIR")
    image = lookup.in_store(g, text)
    if os.path.lexists(target):
        if not flags.is_on("overwrite"):
            raise Failure("output directory exists (try --overwrite)")
        if os.path.realpath(target) == "/":
            raise Failure("this would delete your root filesystem. Refusing.")
    with _failures(text), _scratch(target) as work:
        rootfs = work if flags.is_on("rootfs-only") else work / "rootfs"
        rootfs.parent.mkdir(mode=0o755, exist_ok=True)
        if own and image.is_aci:
            _copy([image.cas.tree(str(image.record["id"]).replace("-", ":", 1))], rootfs)
        else:
            operations.render(image, rootfs)
        if rootfs != work:
            (work / "manifest").write_text(to_json(operations.appc_manifest(image), pretty=False))
        if target.is_dir() and not target.is_symlink():
            remove_tree(target)
        else:
            target.unlink(missing_ok=True)
        work.rename(target)
    return 0


def _copy(trees: Sequence[Path], rootfs: Path) -> None:
    rootfs.mkdir(mode=0o755)
    fd = os.open(rootfs, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        aci.render(trees, fd)
    finally:
        os.close(fd)


@contextmanager
def _scratch(target: Path) -> Iterator[Path]:
    """A name beside the target, which is gone afterwards if it was not renamed."""
    work = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        yield work
    finally:
        remove_if_there(work)


@contextmanager
def _failures(text: str) -> Iterator[None]:
    try:
        yield
    except ImageError as error:
        raise Failure(f"{text}: {error}") from None
    except OSError as error:
        raise Failure(f"{error.filename}: {error.strerror}") from None


def _two(flags: Flags, args: list[str], what: str) -> tuple[str, Path]:
    found = words(flags, args)
    if len(found) != 2:
        raise Failure(f"name {what}")
    return found[0], Path(os.path.abspath(found[1]))
