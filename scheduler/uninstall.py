"""`gantry uninstall`: ends the framework at Mesos, all its pods with it, and removes the state. After asking.

Nothing else ever tears the framework down. The store is locked meanwhile, so no scheduler can run on it; it is removed
only when the master has ended the framework, and that only when the cluster volumes are given back (`giveback`). Killed
on the way, it is run again and goes on.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import getpass
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from scheduler import exitcodes, oneshot
from scheduler.config import Framework, UsageError, access_of, master_of, principal_of, ring_of, roles_of
from scheduler.flags import uninstall_parser, zookeeper_of
from scheduler.framework import records
from scheduler.framework.core.lifecycle import TERMINAL, TaskState
from scheduler.giveback import GiveBack, Remains, Wanted, wanted
from scheduler.store import Store, StoreError, open_store
from shared.mesos.scheduler_driver import NotConnected, Scheduler, SchedulerDriver
from shared.mesos.settings import Access
from shared.zookeeper.location import hide

ABOUT = (
    "End the framework at Mesos, kill all its pods, destroy the volumes of its claims, and remove its state. "
    "There is no way back."
)

EPILOG = """\
exit codes: 0 done; 1 not confirmed, or volumes remain; 2 bad flags or files; 4 the store cannot be used, for one
because a scheduler runs on it; 5 Mesos cannot be reached or refuses. But for 0, what is in the store is still there."""

NO = 1
"""Not confirmed, or volumes remain; the other exit codes mean what they mean for the scheduler."""

REMOVED = "has been removed"
"""In the ERROR for a SUBSCRIBE with the id of a framework that has ended (`Master::_subscribe`)."""

FAILOVER_SECONDS = 604800.0
"""Of a subscription that is interrupted before the framework ended: everything goes on as before."""


class MesosError(Exception):
    """One line: why the framework was not ended."""


class Removed(Exception):
    """The master ended the framework some time ago."""


class Declined(Exception):
    """One line: why nothing was done."""


def main(argv: list[str], ask: Callable[[str], str] = input) -> int:
    """Returns the exit code (see EPILOG)."""

    def work() -> str:
        args = uninstall_parser(ABOUT, EPILOG).parse_args(argv)
        asyncio.run(_uninstall(args, access_of(args, os.environ), ask))
        return f"{args.framework_name} is uninstalled"

    codes = {
        UsageError: exitcodes.USAGE,
        Declined: NO,
        StoreError: exitcodes.STORE,
        MesosError: exitcodes.MESOS,
    }
    return oneshot.run(work, codes)


def _say(line: str) -> None:
    print(line)  # noqa: T201 - this is a conversation


async def _uninstall(args: argparse.Namespace, access: Access, ask: Callable[[str], str]) -> None:
    master = master_of(args.master)
    framework = Framework(
        name=args.framework_name,
        roles=roles_of(args.role, args.roles),
        user=args.user or getpass.getuser(),
        failover_timeout=FAILOVER_SECONDS,
        principal=principal_of(args, access),
        hostname=socket.gethostname(),
        webui_url="",
    )
    zookeeper_of(args)  # or UsageError
    store = open_store(args.store, arguments=args, ring=ring_of(args, os.environ), cluster=args.cluster_id)
    if not await store.exists():
        raise StoreError(
            f"store {hide(args.store)}: there is none; is it the path that the scheduler was given?"
        )
    await store.open()
    try:
        await store.lead_alone()  # refuses while a scheduler runs
        record = store.get(records.FRAMEWORK)
        framework_id = record.obj.get("frameworkId", "") if record else ""
        what = wanted(store)
        if not args.yes:
            _confirm(args, store, framework_id, len(what.volumes), ask)
        if framework_id:
            await _end(framework, framework_id, master, access, args, what)
        await store.destroy()
    finally:
        await store.close()


def _confirm(
    args: argparse.Namespace, store: Store, framework_id: str, volumes: int, ask: Callable[[str], str]
) -> None:
    name = args.framework_name
    tasks = [TaskState[one.obj["state"]] for one in store.list(records.TASKS)[0]]
    running = sum(state not in TERMINAL for state in tasks)
    _say(f"This ends framework {name} ({framework_id or 'never registered'}) at {args.master}:")
    if volumes:
        _say(f"{volumes} cluster volumes are destroyed with all that is in them,")
    _say(f"{running} running pods are killed, {len(store.list('pods')[0])} pods and all else in")
    _say(f"{hide(args.store)} is removed. There is no way back.")
    try:
        answer = ask(f"Type the framework's name ({name}) to go on: ").strip()
    except EOFError:
        raise Declined("nobody answered, so nothing was done; --yes does not ask") from None
    if answer != name:
        raise Declined(f"the answer was not {name}, so nothing was done")


class _Last(Scheduler):
    """The last connections of a framework. Once `ending`, it is ended each time that it is there, and `done` when the
    master says that it is no more. (A connection that closes after TEARDOWN proves nothing, so the driver
    subscribes again, and the refusal is the proof.) `there` and `done` hold why not, when that is known."""

    def __init__(self, back: GiveBack) -> None:
        loop = asyncio.get_running_loop()
        self.back = back
        self.ending = False
        self.there: asyncio.Future[None] = loop.create_future()
        self.done: asyncio.Future[None] = loop.create_future()

    def registered(self, driver: SchedulerDriver, framework_id: Any, master_info: Any) -> None:
        self.reregistered(driver, master_info)

    def reregistered(self, driver: SchedulerDriver, master_info: Any) -> None:
        if not self.there.done():
            self.there.set_result(None)
        if self.ending:
            self.end(driver)
        else:
            self.back.connected(driver)

    def end(self, driver: SchedulerDriver) -> None:
        self.ending = True
        with contextlib.suppress(NotConnected):  # the next connection will do
            driver.tearDown()

    def resourceOffers(self, driver: SchedulerDriver, offers: Sequence[Any]) -> None:  # noqa: N802 - pymesos' name
        self.back.offers(driver, offers)

    def statusUpdate(self, driver: SchedulerDriver, status: Any) -> None:  # noqa: N802 - pymesos' name
        self.back.status(driver, status)

    def error(self, driver: SchedulerDriver, message: str) -> None:
        removed = REMOVED in message
        failure = Removed() if removed else MesosError(f"Mesos refused: {message}; the state is kept")
        if not self.there.done():
            self.there.set_exception(failure)
        elif not self.done.done() and removed and self.ending:
            self.done.set_result(None)
        elif not self.done.done():
            self.done.set_exception(failure)


async def _end(
    framework: Framework,
    framework_id: str,
    master: str,
    access: Access,
    args: argparse.Namespace,
    what: Wanted,
) -> None:
    """Takes the framework over, gives its volumes back and ends it. For one that ended before it was done, a
    framework of the same roles stands in."""
    roles = (*framework.roles, *sorted(what.roles - set(framework.roles)))
    framework = replace(framework, roles=roles)
    try:
        await _session(framework.info(framework_id), framework_id, master, access, args, what)
    except Removed:
        if what.volumes:
            stand_in = replace(framework, failover_timeout=0.0).info("")
            await _session(stand_in, framework_id, master, access, args, what)


async def _session(
    info: dict[str, Any], owner: str, master: str, access: Access, args: argparse.Namespace, what: Wanted
) -> None:
    """One framework from its subscription to its end."""
    last = _Last(GiveBack(owner, what))
    try:
        driver = SchedulerDriver(
            last,
            info,
            master,
            suppressed_roles=info["roles"],
            credentials=access.credentials,
            tls=access.tls,
        )
    except ValueError as error:
        raise UsageError(f"--master {master}: {error}") from error
    await driver.start()
    try:
        async with asyncio.timeout(args.timeout):
            await last.there
        await _until_given_back(last, driver, access, args)
        last.end(driver)
        async with asyncio.timeout(args.timeout):
            await last.done
    except TimeoutError:
        trouble = driver.trouble or "the framework does not end"
        raise MesosError(f"gave up after {args.timeout:g} s: {trouble}; the state is kept") from None
    finally:
        await driver.stop()


async def _until_given_back(
    last: _Last, driver: SchedulerDriver, access: Access, args: argparse.Namespace
) -> None:
    """Ends, too, when the master refuses us on the way."""
    work = asyncio.create_task(
        last.back.run(driver, access, patience=args.timeout, abandon=args.abandon_volumes)
    )
    await asyncio.wait((work, last.done), return_when=asyncio.FIRST_COMPLETED)
    if not work.done():
        work.cancel()
    if last.done.done():
        last.done.result()
    try:
        await work
    except Remains as error:
        raise Declined(f"{error}; the state is kept") from error
