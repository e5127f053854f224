"""`fetch` and `image list|rm|gc|cat-manifest|verify`: thin on stage0's operations."""

# ruff: noqa: T201  (a command line prints)

import asyncio
import json
import time
from calendar import timegm
from dataclasses import dataclass
from typing import Any

from executor.rkt import lookup
from executor.rkt.apps import deprecate
from executor.rkt.common import Globals, ago, check_format, full_time, table, to_json, words
from executor.rkt.flags import Failure, Flags, duration
from executor.rkt.lookup import Finder
from executor.rkt.pods import walk
from executor.stage0 import gc, inventory, operations
from executor.stage0.cas import Cas
from executor.stage0.errors import ImageError
from executor.stage0.settings import Collection
from executor.stage0.streams import Limits

SHORT = 39  # sha512- and 32 digits: appc's ShortHash
FIELDS = {
    "id": "ID",
    "name": "NAME",
    "size": "SIZE",
    "importtime": "IMPORT TIME",
    "lastused": "LAST USED",
}
_SORTED_BY = ("name", "importtime", "lastused", "size")


def pull_flags(flags: Flags, default: str) -> None:
    """`--pull-policy` and its old names."""
    flags.text("pull-policy", default, "when to fetch an image: new, update or never")
    flags.switch("store-only", "", default=False)
    flags.switch("no-store", "", default=False)
    deprecate(flags)


def policy(flags: Flags) -> lookup.Pull:
    """What they say together. Failure."""
    if flags.is_on("store-only") and flags.is_on("no-store"):
        raise Failure("both --store-only and --no-store specified")
    if flags.is_on("store-only"):
        return "never"
    return "update" if flags.is_on("no-store") else lookup.pull_policy(flags.values["pull-policy"])


def fetch(g: Globals, args: list[str]) -> int:
    """`fetch IMAGE…`: prints each image's id."""
    flags = g.flags("[flags] IMAGE…")
    wanted: list[tuple[str, list[str]]] = []
    pull_flags(flags, "update")
    flags.switch("full", "print whole ids")

    def signature(value: str) -> None:
        if not wanted:
            raise ValueError("it must follow an image")
        wanted[-1][1].append(value)

    flags.call("signature", "the image's detached signature", signature)
    flags.parse(args, lambda word: wanted.append((word, [])))
    if not wanted:
        raise Failure("must provide at least one image")
    finder = Finder(g, policy(flags), lambda text: g.say(f"image: {text}"))

    async def run() -> None:
        for text, signatures in wanted:
            image, _ = await finder.find(text, "".join(signatures[-1:]))
            print(image.id if flags.is_on("full") else image.id[:SHORT], flush=True)

    asyncio.run(run())
    return 0


@dataclass(frozen=True)
class _Row:
    id: str
    name: str
    import_time: float
    last_used: float
    size: int

    def key(self, field: str) -> Any:
        return {
            "name": self.name,
            "importtime": self.import_time,
            "lastused": self.last_used,
            "size": self.size,
        }[field]

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "name": self.name,
            "import_time": int(self.import_time * 10**9),
            "last_used_time": int(self.last_used * 10**9),
            "size": self.size,
        }

    def cells(self, *, full: bool, now: float) -> dict[str, str]:
        def when(seconds: float) -> str:
            return full_time(seconds) if full else ago(seconds, now)

        return {
            "id": self.id if full else self.id[:19],
            "name": self.name,
            "size": str(self.size) if full else _bytes(self.size),
            "importtime": when(self.import_time),
            "lastused": when(self.last_used),
        }


def listing(g: Globals, args: list[str]) -> int:
    """`image list`."""
    flags = g.flags("[flags]")
    flags.text("fields", ",".join(FIELDS), f"columns: {','.join(FIELDS)}")
    flags.text("sort", "importtime", f"by what to sort: {','.join(_SORTED_BY)}")
    flags.text("order", "asc", "asc or desc")
    flags.switch("full", "whole ids, times and sizes")
    flags.switch("no-legend", "no headings")
    flags.text("format", "", "json or json-pretty")
    words(flags, args)
    fields, sort = flags.values["fields"].split(","), flags.values["sort"].split(",")
    for name, allowed, given in (("fields", tuple(FIELDS), fields), ("sort", _SORTED_BY, sort)):
        if wrong := [field for field in given if field not in allowed]:
            raise Failure(f"--{name}: {wrong[0]!r} is not one of {', '.join(allowed)}")
    if flags.values["order"].lower() not in {"asc", "desc"}:
        raise Failure("--order: wrong sort order")
    rows = _rows(g)
    rows.sort(
        key=lambda row: [row.key(field) for field in sort], reverse=flags.values["order"].lower() == "desc"
    )
    if how := check_format(flags.values["format"]):
        print(to_json([row.to_json() for row in rows], pretty=how == "json-pretty"))
        return 0
    full, now = flags.is_on("full"), time.time()
    lines = [] if flags.is_on("no-legend") else [[FIELDS[field] for field in fields]]
    lines += [[row.cells(full=full, now=now)[field] for field in fields] for row in rows]
    print(table(lines), end="")
    return 0


def _rows(g: Globals) -> list[_Row]:
    images = lookup.everything(g.data)
    used = gc.last_used(images[0].cas) if images else {}
    rows = []
    for image in images:
        record = image.record
        size = sum(image.cas.usage(layer).bytes for layer in dict.fromkeys(record["layers"]))
        imported = timegm(time.strptime(record["verification"]["time"][:19], "%Y-%m-%dT%H:%M:%S"))
        rows.append(
            _Row(record["id"], lookup.shown_name(image), imported, used.get(record["id"], imported), size)
        )
    return rows


def _bytes(size: int) -> str:
    """As go-humanize's IBytes."""
    if size < 10:
        return f"{size}B"
    value, unit = float(size), 0
    while value >= 1024 and unit < 6:
        value, unit = value / 1024, unit + 1
    shown = f"{value:.1f}" if value < 10 else f"{value:.0f}"
    return f"{shown}{('B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'EiB')[unit]}"


def remove(g: Globals, args: list[str]) -> int:
    """`image rm IMAGE…`: by id or name; one of several names for it is enough, and what is not there is only told, as
    in rkt (`rkt/image_rm.go`)."""
    wanted = words(g.flags("IMAGE…"), args)
    if not wanted:
        raise Failure("must provide at least one image ID")
    found: dict[str, None] = {}
    for text in wanted:
        try:
            found[str(lookup.in_store(g, text).record["id"])] = None
        except (Failure, ImageError) as error:
            g.say(str(error))
    done = failed = 0
    for image_id in found:
        try:
            inventory.remove(g.data, image_id, _needed_by_pods(g))
        except (Failure, ImageError) as error:
            g.say(str(error))
            failed += 1
            continue
        print(f'successfully removed aci for image: "{image_id}"')
        done += 1
    if done:
        g.say(f"{done} image(s) successfully removed")
    if failed:
        g.say(f"{failed} image(s) cannot be removed")
    return 254 if failed else 0


def collect(g: Globals, args: list[str]) -> int:
    """`image gc`: images that nobody has used for the grace period, and what belongs to no image."""
    flags = g.flags("[flags]")
    flags.text("grace-period", "24h", "how long ago an image was used last")
    words(flags, args)
    try:
        grace = duration(flags.values["grace-period"])
    except ValueError as error:
        raise Failure(f"--grace-period: {error}") from None
    wanted = Collection(high_percent=100.0, low_percent=100.0, minimum_age=0.0, maximum_age=max(grace, 1e-3))
    try:
        done = gc.collect(g.data, wanted, needed=_needed_by_pods(g))
    except ImageError as error:
        raise Failure(str(error)) from None
    for image_id in done.images:
        print(f'successfully removed aci for image: "{image_id}"')
    g.say(f"{len(done.images)} image(s) successfully removed")
    return 0


def _needed_by_pods(g: Globals) -> gc.Needed:
    """What pods need that do not run (and so hold nothing themselves): those being prepared, and prepared; stage1s that
    have still to collect."""
    cas = Cas(g.data / "store", Limits())

    def look() -> set[str]:
        needed: set[str] = set()
        for pod in walk(g.pods):
            ids = [pod.stage1_id()]
            if pod.phase in {"prepare", "prepared", "run"} and not pod.ended:
                ids += pod.image_ids()
            for image_id in filter(None, ids):
                record = cas.load_image(image_id)
                needed |= {image_id, *(gc.trees(record) if record else ())}
        return needed

    return look


def cat_manifest(g: Globals, args: list[str]) -> int:
    """`image cat-manifest IMAGE`: an ACI's own, or what docker2aci would make of a docker or OCI image."""
    flags = g.flags("[flags] IMAGE")
    flags.switch("pretty-print", "indent the output", default=True)
    found = words(flags, args)
    if len(found) != 1:
        raise Failure("name one image")
    image = lookup.in_store(g, found[0])
    try:
        manifest = operations.appc_manifest(image)
    except ImageError as error:
        raise Failure(f"{found[0]}: {error}") from None
    print(
        json.dumps(manifest, indent="\t") if flags.is_on("pretty-print") else to_json(manifest, pretty=False)
    )
    return 0


def verify(g: Globals, args: list[str]) -> int:
    """`image verify IMAGE…`: every byte, and whether it may run today. 254 when something is wrong."""
    found = words(g.flags("IMAGE…"), args)
    if not found:
        raise Failure("must provide at least one image ID")
    bad = 0
    for text in found:
        image = lookup.in_store(g, text)
        problems = operations.verify(image, lookup.image_settings(g).gate)
        for problem in problems:
            g.say(f"image {text}: {problem}")
        if problems:
            bad += 1
        else:
            print(f'successfully verified checksum for image: "{text}" ("{image.record["id"]}")')
    return 254 if bad else 0
