"""`gantry backup` and `gantry restore`."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

from gantry import __version__
from scheduler import exitcodes, oneshot
from scheduler.backup import file, sqlite
from scheduler.backup.file import BackupError, Summary
from scheduler.backup.transfer import BUMP, Row, Snapshot
from scheduler.flags import CLUSTER, UsageError, zookeeper_of
from scheduler.store import StoreError
from scheduler.store.zookeeper import transfer
from shared.progress import Bar
from shared.zookeeper.location import hide
from shared.zookeeper.settings import add_flags

BACKUP_ABOUT = (
    "Write the whole state to a file, consistently, while schedulers run on it or not. Secrets that are encrypted in "
    "the store are encrypted in the file; it is readable by its owner alone."
)
RESTORE_ABOUT = (
    "Make a store of a backup, of either kind: this is also how a cluster moves from SQLite to ZooKeeper. Only where "
    "there is no store yet. Stop the schedulers first, and never let two clusters run from one backup."
)
EPILOG = "exit codes: 0 done; 1 the file cannot be used; 2 bad flags; 4 the store cannot be used"
FILE = 1


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def backup_parser() -> argparse.ArgumentParser:
    made = _Parser(prog="gantry backup", description=BACKUP_ABOUT, epilog=EPILOG)
    _common(made)
    return made


def restore_parser() -> argparse.ArgumentParser:
    made = _Parser(prog="gantry restore", description=RESTORE_ABOUT, epilog=EPILOG)
    _common(made)
    owner = "whose state it becomes, as --cluster-id of the schedulers (that of the backup)"
    made.add_argument("--cluster-id", default="", metavar="ID", help=owner)
    return made


def _common(made: argparse.ArgumentParser) -> None:
    made.add_argument("--store", required=True, metavar="URL", help="as the scheduler is given it")
    add_flags(made)
    made.add_argument("file", type=Path, metavar="FILE", help="the backup")


def backup(argv: list[str]) -> int:
    """`gantry backup`; returns the exit code."""
    return _main(backup_parser(), _backup, argv)


def restore(argv: list[str]) -> int:
    """`gantry restore`; returns the exit code."""
    return _main(restore_parser(), _restore, argv)


def _main(
    parser: argparse.ArgumentParser,
    work: Callable[[argparse.Namespace], Coroutine[None, None, str]],
    argv: list[str],
) -> int:
    codes = {UsageError: exitcodes.USAGE, BackupError: FILE, StoreError: exitcodes.STORE}
    return oneshot.run(lambda: asyncio.run(work(parser.parse_args(argv))), codes)


async def _backup(args: argparse.Namespace) -> str:
    def save(snapshot: Snapshot) -> int:
        created = datetime.now(UTC).isoformat(timespec="seconds")
        with Bar("writing the backup") as bar:
            return file.write(args.file, snapshot, created=created, gantry=__version__, progress=bar)

    access = zookeeper_of(args)
    if access is None:
        with sqlite.snapshot(_path(args.store)) as snapshot:
            size, count = save(snapshot), snapshot.count
    else:
        kept = await transfer.read(access)
        for one in kept.damaged:
            print(f"gantry: damaged, and not in the backup: {one}", file=sys.stderr)  # noqa: T201
        rows = (Row(*one) for one in kept.objects)
        snapshot = Snapshot(rows, len(kept.objects), kept.version, kept.cluster)
        size, count = save(snapshot), snapshot.count
    return f"{args.file}: {count:,} objects, {size / 1e6:.1f} MB"


async def _restore(args: argparse.Namespace) -> str:
    access = zookeeper_of(args)
    path = _path(args.store) if access is None else None
    with Bar("checking the backup") as bar:
        summary = file.check(args.file, bar)
    with Bar("restoring") as bar:
        rows = _counted(args.file, summary, bar)
        if path is not None:
            sqlite.fill(path, rows, summary.version + BUMP)
        elif access is not None:
            cluster = args.cluster_id or summary.cluster or CLUSTER
            await transfer.fill(access, cluster, rows, summary.version + BUMP)
    return f"{summary.count:,} objects of {summary.created} are in {hide(args.store)}"


def _counted(path: Path, summary: Summary, bar: Bar) -> Iterator[Row]:
    for number, row in enumerate(file.rows(path), 1):
        yield row
        bar(number, summary.count)


def _path(url: str) -> Path:
    scheme, _, path = url.partition(":")
    if scheme != "sqlite" or not path:
        raise UsageError(f"--store {url!r}: not a store URL; use sqlite:PATH or zk://HOSTS/PATH")
    return Path(path)
