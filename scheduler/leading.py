"""What only the leader has: the engine with all it needs, the connection to Mesos, the API's own housekeeping.

Recovery is start: load, subscribe with the stored framework id, reconcile. There is no second path, whether the state
is of a scheduler that was stopped a year ago, or of one that led until a moment ago.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from gantry import __version__
from scheduler.api import housekeeping
from scheduler.api.context import Api
from scheduler.config import Settings, UsageError
from scheduler.framework import feed
from scheduler.framework.engine import Engine, Versions, load
from scheduler.framework.identity import hold
from scheduler.framework.mesos import ExecutorTemplate, Mesos
from scheduler.framework.nodes import watch_agents
from scheduler.framework.publishing import Publisher
from scheduler.framework.saving import Saver
from scheduler.framework.warm import Warm
from scheduler.store import Store, StoreError
from shared.mesos.scheduler_driver import SchedulerDriver

log = logging.getLogger("gantry.scheduler")

STOP_SECONDS = 5.0
"""How long a frame that is being saved may hold up the end."""


@dataclass
class Leading:
    """See the module. `build` it when the store may be written, `run` it, `close` it."""

    settings: Settings
    store: Store
    api: Api
    engine: Engine
    driver: SchedulerDriver
    publisher: Publisher
    versions: Versions

    @classmethod
    async def build(cls, settings: Settings, store: Store, api: Api, warm: Warm | None = None) -> Leading:
        """`warm`: what was read ahead. Raises UsageError, StoreError, IdentityChanged."""
        policy = settings.policy(__version__)
        await hold(store, settings.framework.info(""))
        await housekeeping.prepare(api)
        state, versions, secret, infos = await load(store, policy, warm)
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
        gc.freeze()  # what was loaded mostly stays
        driver = mesos.driver = _driver(settings, mesos, engine.state.framework_id)
        return cls(settings, store, api, engine, driver, publisher, versions)

    @property
    def trouble(self) -> str:
        """Why Mesos does not hear us, or ""."""
        connected = self.engine.state.connected
        return self.driver.trouble or ("" if connected else "the subscription is still being saved")

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set or something fails; its error propagates. A frame is not cut in two."""
        await self.driver.start()
        try:
            await self._until(
                stop,
                self.publisher.run(),
                housekeeping.run(self.api),
                feed.follow_pods(
                    self.store, self.versions.pods, self.engine.put, lambda: self.engine.state.pods
                ),
                feed.follow_nodes(
                    self.store, self.versions.nodes, self.engine.put, lambda: self.engine.state.nodes
                ),
                feed.follow_claims(
                    self.store, self.versions.claims, self.engine.put, lambda: self.engine.state.storage.keys
                ),
                watch_agents(
                    self.driver, self.settings.framework.roles, self.engine.put, self.settings.access
                ),
            )
            log.info("stopping; pods run on")
            await self.publisher.flush()
        finally:
            await self.driver.stop()

    async def _until(self, stop: asyncio.Event, *beside: Coroutine[Any, Any, None]) -> None:
        deciding = asyncio.create_task(self.engine.run(), name="engine")
        tasks = [deciding, *(asyncio.create_task(one) for one in beside)]
        stopped = asyncio.create_task(stop.wait(), name="stop")
        try:
            done, _ = await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stopped}:
                await task
            if stopped not in done:
                raise StoreError("the store was closed under the engine")
            self.engine.stop()
            await asyncio.wait([deciding], timeout=STOP_SECONDS)
        finally:
            for task in [stopped, *tasks]:
                task.cancel()
            await asyncio.wait([stopped, *tasks])


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
