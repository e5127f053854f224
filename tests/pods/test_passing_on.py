"""What the pods of an executor pass on: network namespaces that nobody has used, within a Kubernetes namespace."""

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from executor.metadata.keys import Keys
from executor.metadata.service import Service
from executor.pods.logread import LogOptions, read_log
from executor.pods.rules import NO_RULES
from tests.pods.reported import SECONDS

pytestmark = pytest.mark.root

WAIT = "while :; do sleep 0.02; done"
KNOCK = f"nc 127.0.0.1 1 </dev/null; echo knocked; {WAIT}"  # where nobody is


class Networks:
    """Of pods that ran one after the other. Each is kept open, so that no other one gets its number."""

    def __init__(self, host: Any) -> None:
        self._host = host
        self._open: list[int] = []

    async def of(self, namespace: str, script: str = WAIT) -> int:
        """The number of a pod's, which runs and ends."""
        host = self._host
        task = host.run({"run": script}, namespace=namespace)
        await host.until(task, lambda report: report.status["phase"] == "Running")
        if script != WAIT:
            await self._has_knocked(namespace)
        pid = host.pods.find(namespace, "p").sandbox.pid
        self._open.append(os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC))
        host.pods.kill(task, 0.0, "enough")
        await host.end(task)
        return os.fstat(self._open[-1]).st_ino

    async def _has_knocked(self, namespace: str) -> None:
        path, writer = self._host.pods.log_of(namespace, "p", "c0", previous=False)
        said = b""
        async with asyncio.timeout(SECONDS):
            async for part in read_log(path, LogOptions(follow=True), writer):
                said += part
                if b"knocked" in said:
                    return

    def close(self) -> None:
        for fd in self._open:
            os.close(fd)


async def networks_of(make_host: Callable[..., Any], place: Path, work: Any, **options: Any) -> Any:
    """What `work` gives of a host whose pods have the metadata service, as an executor's do."""
    service = Service(Keys(place / "keys" / "key", make=True), lambda image_id: {"name": "busybox"})
    host = make_host(metadata=service, **options)
    networks = Networks(host)
    host.keeper.start()
    try:
        return await work(networks)
    finally:
        networks.close()
        await host.close()
        await service.shut()


async def test_pods_of_one_namespace_pass_on_what_they_did_not_use(
    make_host: Callable[..., Any], tmp_path: Path
) -> None:
    async def work(networks: Networks) -> tuple[list[int], list[int]]:
        turns = [(await networks.of("one"), await networks.of("other")) for _ in range(6)]
        return [one for one, _ in turns], [other for _, other in turns]

    one, other = await networks_of(make_host, tmp_path, work)
    assert len(set(one)) < len(one)
    assert not set(one) & set(other)


async def test_one_that_a_pod_has_used_is_nobody_else_s(
    make_host: Callable[..., Any], tmp_path: Path
) -> None:
    async def work(networks: Networks) -> list[int]:
        return [await networks.of("one", KNOCK) for _ in range(4)]

    found = await networks_of(make_host, tmp_path, work)
    assert len(set(found)) == len(found)


async def test_it_can_be_turned_off(make_host: Callable[..., Any], tmp_path: Path) -> None:
    async def work(networks: Networks) -> list[int]:
        return [await networks.of("one") for _ in range(4)]

    found = await networks_of(make_host, tmp_path, work, rules=replace(NO_RULES, reuse_namespaces=False))
    assert len(set(found)) == len(found)
