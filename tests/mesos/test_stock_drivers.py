"""pymesos' own drivers, untouched, on the http_parser drop-in: they speak to a scripted master and agent."""

import asyncio
from typing import Any

import pytest
from aiohttp import web
from pymesos import MesosExecutorDriver, MesosSchedulerDriver

FRAMEWORK_ID = {"value": "F-0002"}
STATUS = {"task_id": {"value": "t.1"}, "state": "TASK_RUNNING", "agent_id": {"value": "S0"}, "uuid": "AAAA"}


def to_loop(book: Any) -> Any:
    """Stock drivers call back on a thread of theirs: note on the loop's. They also say `disconnected` once or
    twice on the way to the leader; that is left out."""
    loop, note = asyncio.get_running_loop(), book._note

    def pass_on(name: str, _: Any, *arguments: Any) -> None:
        if name != "disconnected":
            loop.call_soon_threadsafe(note, name, None, *arguments)

    book._note = pass_on
    return book


async def test_the_stock_scheduler_driver(peer: Any, other_peer: Any, scheduler: Any) -> None:
    async def redirect(_: web.Request) -> web.Response:
        return web.Response(
            status=307, headers={"Location": f"//{other_peer.address}/master/api/v1/scheduler"}
        )

    peer.answers.append(redirect)
    driver = MesosSchedulerDriver(to_loop(scheduler), {"user": "root", "name": "stock"}, peer.address)
    await asyncio.to_thread(driver.start)
    try:
        stream = await other_peer.stream()
        await stream.drip({"type": "SUBSCRIBED", "subscribed": {"framework_id": FRAMEWORK_ID}})
        await scheduler.next("registered")
        await stream.send({"type": "OFFERS", "offers": {"offers": [{"id": {"value": "O1"}}]}})
        assert await scheduler.next("resourceOffers") == ([{"id": {"value": "O1"}}],)
        await asyncio.to_thread(driver.launchTasks, {"value": "O1"}, [{"name": "t"}])
        assert (await other_peer.call())["accept"]["offer_ids"] == [{"value": "O1"}]
        await stream.send({"type": "UPDATE", "update": {"status": STATUS}})
        assert await scheduler.next("statusUpdate") == (STATUS,)
        assert (await other_peer.call())["acknowledge"]["uuid"] == "AAAA"
    finally:
        await asyncio.to_thread(driver.stop, failover=True)
        await asyncio.to_thread(driver.join)


async def test_the_stock_executor_driver(peer: Any, executor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    environ = {
        "MESOS_AGENT_ENDPOINT": peer.address,
        "MESOS_FRAMEWORK_ID": "F-0002",
        "MESOS_EXECUTOR_ID": "stock.1",
        "MESOS_CHECKPOINT": "1",
        "MESOS_LOCAL": "1",  # or a shutdown kills the process group, which is the tests'
    }
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    driver = MesosExecutorDriver(to_loop(executor))
    await asyncio.to_thread(driver.start)
    try:
        stream = await peer.stream()
        infos = {
            "executor_info": {"executor_id": {"value": "stock.1"}},
            "framework_info": {"id": FRAMEWORK_ID},
            "agent_info": {"id": {"value": "S0"}},
        }
        await stream.send({"type": "SUBSCRIBED", "subscribed": infos})
        await executor.next("registered")
        await stream.send({"type": "LAUNCH", "launch": {"task": {"task_id": {"value": "t.1"}}}})
        await executor.next("launchTask")
        await asyncio.to_thread(
            driver.sendStatusUpdate, {"task_id": {"value": "t.1"}, "state": "TASK_RUNNING"}
        )
        assert (await peer.call())["update"]["status"]["source"] == "SOURCE_EXECUTOR"
    finally:
        await asyncio.to_thread(driver.stop)
        await asyncio.to_thread(driver.join)
