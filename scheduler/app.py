"""`gantry scheduler`: the one place where the scheduler's parts are built and tied together.

Store → engine → Mesos driver → API, in one event loop. Start is recovery: load, subscribe with the stored framework
id, reconcile, serve; there is no second path. SIGTERM and SIGINT stop in the other order and leave the framework
registered: pods run on.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import uvloop

from gantry import __version__
from scheduler import bundles, metrics
from scheduler.api.app import make_app
from scheduler.api.health import Check, HealthReport
from scheduler.api.server import ConfigError, start_server
from scheduler.config import Settings, UsageError, parse
from scheduler.framework import feed
from scheduler.framework.engine import Engine, Halted, Versions, load
from scheduler.framework.identity import IdentityChanged, hold
from scheduler.framework.mesos import ExecutorTemplate, Mesos
from scheduler.framework.nodes import NodeProxy, watch_agents
from scheduler.framework.publishing import Publisher
from scheduler.framework.saving import Saver
from scheduler.registry import RESOURCES
from scheduler.registry.wishes import with_wishes
from scheduler.serving import ServingError
from scheduler.store import Key, Store, StoreError, open_store
from shared.mesos.scheduler_driver import SchedulerDriver

log = logging.getLogger("gantry.scheduler")

OK, BUG, USAGE, LISTEN, STORE, MESOS = 0, 1, 2, 3, 4, 5

COLLECT = (50_000, 10, 20)
"""`gc.set_threshold`. The state is millions of dicts and lists that are no garbage; with Python's own numbers a third
of the time goes into looking them through again and again. Garbage in cycles is little, and can wait."""
"""Exit codes."""

STOP_SECONDS = 5.0
"""How long a frame that is being saved may hold up the end."""


def main(argv: list[str]) -> int:
    """Runs until a signal; returns the exit code (see `config.EPILOG`)."""
    try:
        settings = parse(argv)
    except UsageError as error:
        return _fail(USAGE, str(error))
    logging.basicConfig(
        stream=sys.stderr,
        level=settings.log_level.upper(),
        format="%(asctime)s %(levelname).1s %(name)s: %(message)s",
    )
    gc.set_threshold(*COLLECT)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(settings))


def _fail(code: int, message: str) -> int:
    print(f"gantry: error: {message}", file=sys.stderr)  # noqa: T201 - the one line for the user
    return code


async def _run(settings: Settings) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        await serve(settings, stop)
    except (UsageError, ServingError) as error:
        return _fail(USAGE, str(error))
    except ConfigError as error:
        return _fail(LISTEN, str(error))
    except StoreError as error:
        return _fail(STORE, str(error))
    except IdentityChanged as error:
        return _fail(MESOS, str(error))
    except Halted as error:
        return _fail(MESOS, f"Mesos ended the framework: {error}; its state is kept")
    return OK


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    """Everything, until `stop` is set.

    Raises UsageError, ServingError, ConfigError, StoreError, IdentityChanged or Halted.
    """
    async with AsyncExitStack() as stack:
        store = open_store(settings.store)
        await store.open()
        stack.push_async_callback(store.close)
        settings = replace(settings, executor=await stack.enter_async_context(bundles.offered(settings)))
        engine, mesos, publisher, versions = await _engine(settings, store)
        gc.freeze()  # what was loaded mostly stays
        driver = _driver(settings, mesos, engine.state.framework_id)
        mesos.driver = driver
        proxy = NodeProxy(engine.where_is)
        stack.push_async_callback(proxy.close)
        app = make_app(
            store,
            resources=with_wishes(
                RESOURCES,
                settings.framework.roles,
                partial(_annotations, store),
                revocable=settings.framework.revocable,
            ),
            nodes=proxy,
            version=__version__,
            token=settings.token,
            health=lambda: _health(engine, driver),
            registry=metrics.registry(lambda: engine.state, lambda: driver.connected),
        )
        listen = settings.listen
        names = [listen.host, settings.framework.hostname, "localhost", "127.0.0.1"]
        tls = settings.certificate.context(names, datetime.now(UTC))
        runner, port = await start_server(app, listen.host, listen.port, tls=tls)
        stack.push_async_callback(runner.cleanup)
        log.info("serving the API on %s port %d%s", listen.host, port, " with TLS" if tls else "")
        await driver.start()
        stack.push_async_callback(driver.stop)
        await _until(
            stop,
            engine,
            publisher.run(),
            feed.follow_pods(store, versions.pods, engine.put, lambda: engine.state.pods),
            feed.follow_nodes(store, versions.nodes, engine.put, lambda: engine.state.nodes),
            feed.follow_claims(store, versions.claims, engine.put, lambda: engine.state.storage.keys),
            watch_agents(driver, settings.framework.roles, engine.put, settings.access),
        )
        log.info("stopping; pods run on")
        await publisher.flush()


async def _engine(settings: Settings, store: Store) -> tuple[Engine, Mesos, Publisher, Versions]:
    policy = settings.policy(__version__)
    await hold(store, settings.framework.info(""))
    state, versions, secret, infos = await load(store, policy)
    template = ExecutorTemplate(settings.executor.command_info())
    mesos = Mesos(
        template,
        policy.executor,
        lambda event: engine.put(event),
        principal=settings.framework.principal,
    )
    mesos.executor_infos.update(infos)
    saver = Saver(store, mesos.executor_infos, version=__version__, max_pods=policy.max_pods)
    publisher = Publisher(store)
    engine = Engine(store, state, mesos, saver, publisher, secret=secret)
    live = sum(not task.over for task in state.tasks.values())
    log.info("loaded %d pods, %d tasks that may run, %d nodes", len(state.pods), live, len(state.nodes))
    return engine, mesos, publisher, versions


def _annotations(store: Store, namespace: str) -> dict[str, str]:
    entry = store.get(Key("namespaces", "", namespace))
    return (entry.obj["metadata"].get("annotations") or {}) if entry else {}


def _driver(settings: Settings, mesos: Mesos, framework_id: str) -> SchedulerDriver:
    info = settings.framework.info(framework_id)
    try:
        access = settings.access
        return SchedulerDriver(
            mesos,
            info,
            settings.master,
            suppressed_roles=settings.framework.roles,  # nothing is offered before a pod waits
            credentials=access.credentials,
            tls=access.tls,
        )
    except ValueError as error:
        raise UsageError(f"--master {settings.master}: {error}") from error


def _health(engine: Engine, driver: SchedulerDriver) -> HealthReport:
    problem = driver.trouble or ("" if engine.state.connected else "the subscription is still being saved")
    return HealthReport((Check("mesos", problem),))


async def _until(stop: asyncio.Event, engine: Engine, *beside: Coroutine[Any, Any, None]) -> None:
    """Runs everything until `stop` is set or one of them fails; its error propagates. A frame is not cut in two."""
    deciding = asyncio.create_task(engine.run(), name="engine")
    tasks = [deciding, *(asyncio.create_task(one) for one in beside)]
    stopped = asyncio.create_task(stop.wait(), name="stop")
    try:
        done, _ = await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in done - {stopped}:
            await task
        if stopped not in done:
            raise StoreError("the store was closed under the engine")
        engine.stop()
        await asyncio.wait([deciding], timeout=STOP_SECONDS)
    finally:
        for task in [stopped, *tasks]:
            task.cancel()
        await asyncio.wait([stopped, *tasks])
