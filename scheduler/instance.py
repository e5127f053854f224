"""One scheduler: it follows the store and serves from it; while it leads, it decides as well.

    open the store ─▶ serve ─▶ stand for election ─▶ lead(epoch) ─▶ engine, Mesos ─▶ until told to stop, or fenced

With a store of one's own the election is won at once; there is no other path. SIGTERM and SIGINT stop in the other
order and leave the framework registered: pods run on, and another scheduler may lead before this process has ended.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import secrets
import signal
import socket
import sys
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import uvloop
from aiohttp import web

from gantry import __version__
from scheduler import authority, bundles, metrics
from scheduler.api.app import make_app
from scheduler.api.checks import Check, HealthReport
from scheduler.api.context import API
from scheduler.api.forward import Forwarder, Role
from scheduler.api.forward_http import Leader
from scheduler.api.server import ConfigError, start_server
from scheduler.config import Settings, UsageError
from scheduler.election.link import Link
from scheduler.election.messages import Candidate
from scheduler.exitcodes import LISTEN, LOST, MESOS, OK, STORE, USAGE
from scheduler.framework.engine import Halted
from scheduler.framework.identity import IdentityChanged, check
from scheduler.framework.nodes import NodeProxy
from scheduler.framework.warm import Warm
from scheduler.leading import Leading
from scheduler.registry import RESOURCES
from scheduler.registry.wishes import with_wishes
from scheduler.serving import ServingError, Tls
from scheduler.store import Fenced, Key, Store, StoreError
from shared.security.certificates import Authority

log = logging.getLogger("gantry.scheduler")

COLLECT = (50_000, 10, 20)
"""`gc.set_threshold`. The state is millions of dicts and lists that are no garbage; with Python's own numbers a third
of the time goes into looking them through again and again. Garbage in cycles is little, and can wait."""

PREDECESSOR = 15.0
"""Seconds for which our port may be in use when a parent has just been started: by the child of one that was killed,
which first ends the session of that one, and its clients' requests."""

ALONE = 1
"""The epoch of a scheduler that shares its store with nobody."""


class Deposed(Exception):
    """We led, and another one may lead now; the message says why."""


class Orphaned(Deposed):
    """The supervising process is gone, and its session with it, as soon as we have ended that."""


def run(settings: Settings) -> int:
    """Until a signal; returns the exit code (see `flags.EPILOG`)."""
    gc.set_threshold(*COLLECT)
    link = Link.from_environment()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(settings, link))


def _fail(code: int, message: str) -> int:
    print(f"gantry: error: {message}", file=sys.stderr)  # noqa: T201 - the one line for the user
    return code


async def _run(settings: Settings, link: Link | None) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        await serve(settings, stop, link)
    except (UsageError, ServingError) as error:
        return _fail(USAGE, str(error))
    except ConfigError as error:
        return _fail(LISTEN, str(error))
    except (Deposed, Fenced) as error:
        if stop.is_set():  # that another one leads is what was asked for
            log.info("ended while another scheduler took over: %s", error)
            return OK
        return _fail(LOST, f"{error}; what runs is not touched")
    except StoreError as error:
        return _fail(STORE, str(error))
    except IdentityChanged as error:
        return _fail(MESOS, str(error))
    except Halted as error:
        return _fail(MESOS, f"Mesos ended the framework: {error}; its state is kept")
    return OK


async def serve(settings: Settings, stop: asyncio.Event, link: Link | None = None) -> None:
    """Everything, until `stop` is set. `link`: to the parent that stands for election; None: we lead.

    Raises UsageError, ServingError, ConfigError, StoreError, IdentityChanged, Halted or Deposed.
    """
    async with AsyncExitStack() as stack:
        await Instance(settings, link).run(stop, stack)


class Instance:
    """See the module. `run` once."""

    def __init__(self, settings: Settings, link: Link | None) -> None:
        self.name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self.settings = settings
        self.link = link
        self.store = settings.open_store()
        self.leading: Leading | None = None
        self.takeover = metrics.Takeover()
        self.forwarder = Forwarder(self.name)
        self.forwarder.trouble = self._why_nobody_leads
        if link is not None:
            self.forwarder.doubt = lambda: link.trouble
        self._nodes = NodeProxy(lambda uid: self.leading.engine.where_is(uid) if self.leading else None)
        self._app = self._make_app()
        self._deposed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._elected = asyncio.Event()
        self._epoch: int | None = None
        """Of our own leadership, once the store may be written."""
        self._ready = False
        self._warm = Warm()
        self._tls: Tls | None = None

    def _make_app(self) -> web.Application:
        framework = self.settings.framework
        return make_app(
            self.store,
            resources=with_wishes(
                RESOURCES, framework.roles, partial(_annotations, self.store), revocable=framework.revocable
            ),
            nodes=self._nodes,
            version=__version__,
            token=self.settings.token,
            health=self._health,
            registry=metrics.registry(
                lambda: self.leading.engine.state if self.leading else None,
                lambda: bool(self.leading and self.leading.driver.connected),
                self.takeover,
                self.store,
                lambda: self.leading.engine.mesos if self.leading else None,
            ),
            forwarder=self.forwarder,
        )

    # ---- life

    async def run(self, stop: asyncio.Event, stack: AsyncExitStack) -> None:
        """Until `stop` is set, or it cannot go on. What is to be undone is left on `stack`."""
        stack.push_async_callback(self._nodes.close)
        stack.push_async_callback(self.forwarder.close)
        if self.link is None:
            self._elected.set()
        else:
            self.link.on_change, self.link.on_orphaned = self._link_changed, self._orphaned
            self.link.start()
            stack.callback(self.link.stop)
        living = asyncio.create_task(self._live(stop, stack), name="instance")
        try:
            await asyncio.wait((living, self._deposed), return_when=asyncio.FIRST_COMPLETED)
            if not living.done():  # else we have withdrawn, and the next leader was quick
                self._deposed.result()
            await living
        except Orphaned:
            assert self.link is not None
            assert self.settings.zookeeper is not None
            await self.link.end_session(self.settings.zookeeper)  # somebody waits for that
            raise
        finally:
            living.cancel()
            self._deposed.cancel()
            await asyncio.wait((living,))

    async def _live(self, stop: asyncio.Event, stack: AsyncExitStack) -> None:
        if not await _unless(stop, self._begin(stack)) or not await _unless(stop, self._wait()):
            return
        try:
            await self._lead(stop)
        finally:
            self.leading = None
            self._become()
            if self.link is not None:
                self.link.withdraw()

    async def _wait(self) -> None:
        """Until this one leads; reads ahead meanwhile what it will have to know then."""
        following = asyncio.create_task(self._warm.follow(self.store), name="reading ahead")
        try:
            await self._elected.wait()
        finally:
            following.cancel()
            await asyncio.wait((following,))

    async def _begin(self, stack: AsyncExitStack) -> None:
        """Serves, follows, and may lead."""
        executor = await stack.enter_async_context(bundles.offered(self.settings))
        self.settings = replace(self.settings, executor=executor)
        if self.settings.certificate.is_made and self.link is not None:
            await self._open(stack)  # what signs the certificate is in there
            port = await self._listen(stack, await self._authority())
        else:
            port = await self._listen(stack, None)
            await self._open(stack)
        self._ready = True
        self._become()
        if self.link is not None:
            self.link.announce(self._candidate(port))

    async def _open(self, stack: AsyncExitStack) -> None:
        stack.push_async_callback(self.store.close)
        await self.store.open()
        check(self.store, self.settings.framework.info(""))

    async def _listen(self, stack: AsyncExitStack, signer: Authority | None) -> int:
        listen = self.settings.listen
        self._tls = self.settings.certificate.tls(self.settings.names, datetime.now(UTC), signer)
        context = self._tls.context if self._tls else None
        patience = PREDECESSOR if self.link is not None else 0.0
        runner, port = await start_server(self._app, listen.host, listen.port, tls=context, patience=patience)
        stack.push_async_callback(runner.cleanup)
        log.info("serving the API on %s port %d%s", listen.host, port, " with TLS" if context else "")
        return port

    def _candidate(self, port: int) -> Candidate:
        tls = self._tls
        url = self.settings.url(port, tls=tls is not None)
        return Candidate(self.name, url, tls.fingerprint if tls else "", __version__, os.getpid())

    async def _authority(self) -> Authority:
        """The one that signs for all instances; the first that leads makes it."""
        assert self.link is not None
        watch = authority.watch(self.store)
        try:
            found = authority.find(self.store)
            if found is not None:
                return found
            self.link.announce(Candidate(self.name, "", "", __version__, os.getpid()))
            while found is None and await _unless(self._elected, watch.batch()):
                found = authority.find(self.store)
            if found is not None:
                return found
        finally:
            watch.close()
        await self._claim()
        return await authority.make(self.store, datetime.now(UTC))

    async def _claim(self) -> None:
        """The store may be written from now on."""
        if self._epoch is None:
            epoch = ALONE if self.link is None else self.link.epoch
            assert epoch is not None
            await self.store.lead(epoch)
            self._epoch = epoch

    async def _lead(self, stop: asyncio.Event) -> None:
        with self.takeover.measured():
            await self._claim()
            assert self._epoch is not None
            self.takeover.epoch = self._epoch
            leading = await Leading.build(self.settings, self.store, self._app[API], self._warm)
        self._warm = Warm()  # the engine has it now
        self.leading = leading
        self._pause()
        self._become()
        if self.link is not None:
            log.info(
                "this scheduler leads, epoch %d; it took over in %.2f s", self._epoch, self.takeover.seconds
            )
        await leading.run(stop)

    # ---- the election

    def _link_changed(self) -> None:
        assert self.link is not None
        if self.link.epoch is not None and self._epoch in (None, self.link.epoch):
            self._elected.set()
        elif self._epoch is not None:
            self._depose(Deposed("another scheduler leads now"))
        self._pause()
        self._become()

    def _orphaned(self) -> None:
        self._depose(Orphaned("the supervising process is gone or hung"))

    def _depose(self, why: Deposed) -> None:
        if not self._deposed.done():
            self._deposed.set_exception(why)

    def _pause(self) -> None:
        """Nothing is decided while it is uncertain who leads."""
        if self.leading is not None:
            self.leading.engine.pause(bool(self.link and self.link.trouble))

    def _become(self) -> None:
        leader = self.link.leader if self.link else None
        if self.leading is not None:
            self.forwarder.become(Role.LEADING)
        elif not self._ready:
            self.forwarder.become(Role.STARTING)
        else:
            known = leader is not None and leader.url and leader.instance != self.name
            self.forwarder.become(
                Role.FOLLOWING, Leader(leader.url, leader.fingerprint) if leader and known else None
            )

    # ---- what others want to know

    def _why_nobody_leads(self) -> str:
        if self.store.trouble:
            return self.store.trouble
        if self.link is None or self._elected.is_set():
            return "this scheduler is about to lead"
        return self.link.trouble or "no scheduler leads at the moment"

    def _health(self) -> HealthReport:
        checks = []
        if not self._ready:
            checks.append(Check("start", self.store.trouble or "the state is being loaded"))
        if self.link is not None:
            checks.append(Check("election", self.link.trouble, detail=self._who_leads()))
        if self.leading is not None:
            checks.append(Check("mesos", self.leading.trouble))
        elif self._elected.is_set():
            checks.append(Check("mesos", "this scheduler is about to lead"))
        return HealthReport(tuple(checks))

    def _who_leads(self) -> str:
        assert self.link is not None
        if self._epoch is not None:
            return f"this scheduler leads, epoch {self._epoch}"
        leader = self.link.leader
        return f"{leader.url or leader.instance} leads" if leader else "no scheduler leads"


async def _unless(event: asyncio.Event, doing: Coroutine[Any, Any, object]) -> bool:
    """Does it, unless the event comes first; whether it was done. Raises what it raises."""
    task = asyncio.ensure_future(doing)
    waiting = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait((task, waiting), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            return False
        await task
        return True
    finally:
        for one in (task, waiting):
            one.cancel()
        await asyncio.wait((task, waiting))


def _annotations(store: Store, namespace: str) -> dict[str, str]:
    entry = store.get(Key("namespaces", "", namespace))
    return (entry.obj["metadata"].get("annotations") or {}) if entry else {}
