"""`gantry image …`: the image store from a shell, without Mesos. Progress goes to stderr, results to stdout."""

# ruff: noqa: T201  (a command line prints)

import argparse
import asyncio
import os
import shlex
import sys
from pathlib import Path
from typing import Any

import orjson

from executor.stage0 import build, inventory, names, settings
from executor.stage0.errors import ImageBroken, ImageError
from executor.stage0.store import Image, ImageStore, human

DEFAULT_STATE_DIR = Path("/var/lib/gantry")


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

    fetch = commands.add_parser("fetch", help="bring an image into the store", description=names.__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    fetch.add_argument("image", nargs="+", help="a reference, see above")
    fetch.add_argument("--pull-policy", choices=["Always", "IfNotPresent", "Never"], default="Always")
    fetch.add_argument("--quiet", action="store_true", help="no progress lines")
    _add_common(fetch)
    fetch.set_defaults(run=_fetch)

    listing = commands.add_parser("list", help="what is in the store")
    _add_common(listing)
    listing.set_defaults(run=_list)

    remove = commands.add_parser("rm", help="remove images by name or id, and the layers that only they use")
    remove.add_argument(
        "image", nargs="+", help="a reference as it was fetched, or an id (a unique prefix will do)"
    )
    _add_common(remove)
    remove.set_defaults(run=_remove)
    return parser


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--state-dir", type=Path, default=DEFAULT_STATE_DIR, metavar="DIR",
                        help="where the store is (default: %(default)s)")  # fmt: skip
    parser.add_argument("--local-images", type=Path, metavar="DIR", help="OCI layouts for localhost/NAME:TAG")
    parser.add_argument(
        "--image-config", type=Path, metavar="FILE", help="settings: hosts, logins, policy, keys"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


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
        layout, colon, tag = args.oci.rpartition(":")
        if not colon or "/" in tag:
            layout, tag = args.oci, "latest"
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
    store = ImageStore(
        args.state_dir, local_images=args.local_images, settings=settings.load(args.image_config)
    )

    def progress(line: str) -> None:
        if not args.quiet:
            print(line, file=sys.stderr, flush=True)

    async def fetch() -> list[Image]:
        return [await store.pull(ref, args.pull_policy, progress=progress) for ref in args.image]

    images = asyncio.run(fetch())
    if args.json:
        _json([inventory.describe(image) for image in images])
    else:
        for image in images:
            print(image.id)
    return 0


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
