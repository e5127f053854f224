"""`gantry image …`: the image store from a shell, without Mesos. Progress goes to stderr, results to stdout."""

# ruff: noqa: T201  (a command line prints)

import argparse
import asyncio
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from executor.stage0 import build, cli_trust, gc, inventory, names, operations, settings
from executor.stage0.bar import Bar
from executor.stage0.errors import ImageBroken, ImageError
from executor.stage0.layers import human
from executor.stage0.streams import Hashing

if TYPE_CHECKING:
    from executor.stage0.store import Image

DEFAULT_STATE_DIR = Path("/var/lib/gantry")
_NAMED = "a reference as it was fetched, or an id (a unique beginning will do)"


def main(argv: list[str]) -> int:
    """Run one `gantry image` command. 0 done, 1 an ImageError, 2 wrong arguments."""
    args = _parser().parse_args(argv)
    try:
        return int(args.run(args))
    except (ImageError, ValueError) as error:
        print(f"gantry: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("gantry: interrupted; nothing half-imported is kept", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gantry image", description="Images of this machine.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_build(commands)

    common = _common()
    fetch = commands.add_parser("fetch", help="bring an image into the store", description=names.__doc__,
                                parents=[common], formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    fetch.add_argument("image", nargs="+", help="a reference, see above")
    fetch.add_argument("--pull-policy", choices=["Always", "IfNotPresent", "Never"], default="Always")
    fetch.add_argument("--quiet", action="store_true", help="no progress")
    fetch.set_defaults(run=_fetch)

    listing = commands.add_parser("list", parents=[common], help="what is in the store")
    listing.set_defaults(run=_list)

    remove = commands.add_parser(
        "rm", parents=[common], help="remove images by name or id, and the layers that only they use"
    )
    remove.add_argument("image", nargs="+", help=_NAMED)
    remove.set_defaults(run=_remove)

    collect = commands.add_parser(
        "gc", parents=[common], help="remove what is unused, as the settings' [gc] says"
    )
    collect.add_argument(
        "--older-than", type=float, metavar="HOURS", help="remove all images unused for so long"
    )
    collect.set_defaults(run=_gc)

    show = commands.add_parser("cat-manifest", parents=[common], help="print an image's manifest")
    show.add_argument("image", help=_NAMED)
    kind = show.add_mutually_exclusive_group()
    kind.add_argument("--config", action="store_true", help="an OCI image's config instead")
    kind.add_argument("--appc", action="store_true", help="as an appc image manifest, whatever the image is")
    show.set_defaults(run=_cat_manifest)

    verify = commands.add_parser(
        "verify",
        parents=[common],
        help="check that nothing of an image was changed in the store, and who signed it",
    )
    verify.add_argument("image", nargs="*", help=f"{_NAMED}; none: all of them")
    verify.add_argument("--quick", action="store_true", help="times, owners and sizes only, no content")
    verify.add_argument("--quiet", action="store_true", help="no progress")
    verify.set_defaults(run=_verify)

    _add_copies(commands, common)
    cli_trust.add_commands(commands, common)
    return parser


def _add_copies(commands: Any, common: argparse.ArgumentParser) -> None:
    export = commands.add_parser(
        "export", parents=[common], help="write an image of the store to a file or OCI layout"
    )
    export.add_argument("image", help=_NAMED)
    target = export.add_mutually_exclusive_group(required=True)
    target.add_argument("--aci", type=Path, metavar="FILE", help="an ACI, uncompressed, as its id says")
    target.add_argument("--oci", metavar="DIR:TAG", help="a docker or OCI image, layers uncompressed")
    export.add_argument("--quiet", action="store_true", help="no progress")
    export.set_defaults(run=_export)

    render = commands.add_parser(
        "render", parents=[common], help="write an image's root file system to a directory"
    )
    render.add_argument("image", help=_NAMED)
    render.add_argument("directory", type=Path, help="must not exist")
    render.set_defaults(run=_render)


def _common() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--state-dir", type=Path, default=DEFAULT_STATE_DIR, metavar="DIR",
                        help="where the store is (default: %(default)s)")  # fmt: skip
    parser.add_argument("--local-images", type=Path, metavar="DIR", help="OCI layouts for localhost/NAME:TAG")
    parser.add_argument(
        "--image-config", type=Path, metavar="FILE", help="settings: hosts, logins, policy, keys"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _add_build(commands: Any) -> None:
    parser = commands.add_parser("build", help="make an image of a root file system directory (reproducible)")
    add = parser.add_argument
    add("rootfs", type=Path, metavar="ROOTFS")
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument(
        "--oci", metavar="DIR:TAG", help="into this OCI layout (made if missing; TAG default: latest)"
    )
    target.add_argument("--aci", type=Path, metavar="FILE", help="an appc image; needs --name")
    words = "one string split like a shell does, or a JSON list"
    add("--entrypoint", type=_words, default=(), metavar="WORDS", help=words)
    add("--cmd", type=_words, default=(), metavar="WORDS", help=words)
    add("--env", action="append", default=[], metavar="NAME=VALUE")
    add("--user", default="", metavar="USER[:GROUP]")
    add("--workdir", default="", metavar="PATH")
    add("--stop-signal", default="", metavar="SIGNAL")
    add("--port", action="append", default=[], metavar="PORT/PROTOCOL")
    add("--volume", action="append", default=[], metavar="PATH")
    add("--label", action="append", default=[], metavar="NAME=VALUE")
    add("--arch", default=None, help="default: this machine's, in Go's words (amd64, arm64)")
    add("--name", default="", help="the ACI's name, like example.com/app")
    add("--compression", choices=["gzip", "zstd", "bzip2", "xz", "none"], default="gzip",
        help="zstd: OCI only; bzip2 and xz: ACI only")  # fmt: skip
    add("--keep-mtimes", action="store_true", help="keep the files' times (default: SOURCE_DATE_EPOCH, or 0)")
    add("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_build)


def _words(text: str) -> tuple[str, ...]:
    if text.lstrip().startswith("["):
        try:
            items = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            raise argparse.ArgumentTypeError(f"not a JSON list: {error}") from None
        if not all(isinstance(item, str) for item in items):
            raise argparse.ArgumentTypeError("a JSON list of strings is wanted")
        return tuple(items)
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}: {text!r}") from None


def _build(args: argparse.Namespace) -> int:
    options = _options(args)
    if args.oci is not None:
        layout, tag = _layout_and_tag(args.oci)
        if args.compression in {"bzip2", "xz"}:
            raise ImageBroken(
                f"OCI layers are not compressed with {args.compression}; use gzip, zstd or none"
            )
        if args.name:
            raise ImageBroken("--name is for --aci; an OCI image is named by its layout: --oci DIR:TAG")
        built = build.build_oci(args.rootfs, Path(layout), tag, options)
        where = f"oci:{layout}:{tag}"
    else:
        from executor.stage0 import acmanifest  # only appc builds need it

        if args.compression == "zstd":
            raise ImageBroken("ACIs are not compressed with zstd; use gzip, bzip2, xz or none")
        manifest = acmanifest.manifest_for(args.name, options)
        built = build.build_aci(args.rootfs, args.aci, manifest, options, args.compression)
        where = str(args.aci)
    if args.json:
        _json(
            {
                "image": where,
                "id": built.id,
                "digest": built.digest,
                "size": built.size,
                "entries": built.entries,
            }
        )
    else:
        print(f"{where}\n  digest {built.digest}\n  {built.entries} files, {built.size} bytes packed")
    return 0


def _layout_and_tag(text: str) -> tuple[str, str]:
    layout, colon, tag = text.rpartition(":")
    return (layout, tag) if colon and "/" not in tag else (text, "latest")


def _options(args: argparse.Namespace) -> build.Options:
    for item in [*args.env, *args.label]:
        if not item.partition("=")[0] or "=" not in item:
            raise ImageBroken(f"{item!r} is not NAME=VALUE")
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "0")
    if not epoch.isdigit():
        raise ImageBroken(f"SOURCE_DATE_EPOCH={epoch!r} is not a number of seconds")
    extra = {} if args.arch is None else {"architecture": args.arch}
    return build.Options(
        entrypoint=args.entrypoint, cmd=args.cmd, env=tuple(args.env), user=args.user, working_dir=args.workdir,
        stop_signal=args.stop_signal, ports=tuple(args.port), volumes=tuple(args.volume),
        labels=dict(item.split("=", 1) for item in args.label),
        compression=args.compression, epoch=None if args.keep_mtimes else int(epoch), **extra,
    )  # fmt: skip


def _fetch(args: argparse.Namespace) -> int:
    from executor.stage0.store import ImageStore  # with an HTTP client, which the other verbs do without

    store = ImageStore(
        args.state_dir, local_images=args.local_images, settings=settings.load(args.image_config)
    )
    layers: list[tuple[int, Hashing]] = []
    store.watch(lambda layer, blob: layers.append((layer.size or 0, blob)))

    def measure() -> tuple[int, int]:
        return sum(blob.count for _, blob in layers), sum(size for size, _ in layers)

    async def fetch(say: Callable[[str], None]) -> "list[Image]":
        return [await store.pull(ref, args.pull_policy, progress=say) for ref in args.image]

    if args.quiet:
        images = asyncio.run(fetch(lambda _: None))
    else:
        with Bar("layers", measure) as bar:
            images = asyncio.run(fetch(bar.say))
    if args.json:
        _json([inventory.describe(image) for image in images])
    else:
        for image in images:
            print(image.id)
    return 0


def _gc(args: argparse.Namespace) -> int:
    wanted = settings.load(args.image_config).gc
    if args.older_than is not None:
        wanted = replace(wanted, maximum_age=max(args.older_than * 3600, 1e-3), minimum_age=0.0)
    done = gc.collect(args.state_dir, wanted)
    if args.json:
        _json(
            {
                "images": done.images,
                "layers": done.layers,
                "freed": done.freed,
                "kept": done.kept,
                "full": done.full,
            }
        )
        return 0
    for image_id in done.images:
        print(f"removed {image_id}")
    print(f"{len(done.images)} images and {len(done.layers)} layers removed, {human(done.freed)} freed; "
          f"the disk is {done.full:.0f} % full")  # fmt: skip
    return 0


def _cat_manifest(args: argparse.Namespace) -> int:
    with operations.opened(args.state_dir, args.image) as image:
        _json(
            operations.appc_manifest(image) if args.appc else operations.manifest(image, config=args.config)
        )
    return 0


def _verify(args: argparse.Namespace) -> int:
    gate = settings.load(args.image_config).gate
    refs = args.image or [row["id"] for row in inventory.images(args.state_dir)]
    results = []
    for ref in refs:
        with operations.opened(args.state_dir, ref) as image, _bar(args, "verifying") as watch:
            problems = operations.verify(image, gate, content=not args.quick, watch=watch)
        results.append({"image": ref, "id": image.record["id"], "problems": problems})
    if args.json:
        _json(results)
    for result in results if not args.json else ():
        print(f"{result['image']}: " + ("unchanged" if not result["problems"] else "NOT as it should be"))
        for problem in result["problems"]:
            print(f"  {problem}")
    return 1 if any(result["problems"] for result in results) else 0


def _export(args: argparse.Namespace) -> int:
    with operations.opened(args.state_dir, args.image) as image, _bar(args, "exporting") as watch:
        if args.aci is not None:
            where, digest = str(args.aci), operations.export_aci(image, args.aci, watch=watch)
        else:
            layout, tag = _layout_and_tag(args.oci)
            where, digest = (
                f"oci:{layout}:{tag}",
                operations.export_oci(image, Path(layout), tag, watch=watch),
            )
    if args.json:
        _json({"image": where, "id": image.record["id"], "digest": digest})
    else:
        print(f"{where}\n  digest {digest}")
    return 0


def _render(args: argparse.Namespace) -> int:
    with operations.opened(args.state_dir, args.image) as image:
        operations.render(image, args.directory)
    if args.json:
        _json({"directory": str(args.directory), "id": image.record["id"]})
    return 0


@contextmanager
def _bar(args: argparse.Namespace, title: str) -> Iterator[operations.Watch]:
    now = [(0, 0)]

    def watch(done: int, total: int) -> None:
        now[0] = (done, total)

    if args.quiet:
        yield watch
        return
    with Bar(title, lambda: now[0]):
        yield watch


def _list(args: argparse.Namespace) -> int:
    rows = inventory.images(args.state_dir)
    if args.json:
        _json(rows)
        return 0
    table = [("NAME", "ID", "LAYERS", "SIZE", "VERIFIED", "IMPORTED")]
    for row in rows:
        for name in row["names"] or ["<none>"]:
            size = human(row["bytes"])
            verified = row["verification"]["how"]
            table.append(
                (name, row["id"][:19], str(len(row["layers"])), size, verified, row["verification"]["time"])
            )
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    return 0


def _remove(args: argparse.Namespace) -> int:
    removed = []
    for ref in args.image:
        removed += inventory.remove(args.state_dir, ref)
        if not args.json:
            print(f"removed {ref}")
    if args.json:
        _json({"removed": removed})
    return 0


def _json(value: object) -> None:
    print(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())
