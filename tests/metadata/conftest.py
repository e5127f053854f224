"""Fixtures of the metadata service's tests: pod directories, keys, and a way to ask without manners."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from executor.metadata.doors import URL_FILE
from executor.metadata.keys import Keys
from executor.metadata.service import Service
from executor.pods import netns

IMAGE = {
    "acKind": "ImageManifest",
    "acVersion": "0.8.11",
    "name": "example.com/web",
    "annotations": [{"name": "authors", "value": "Ann"}, {"name": "tier", "value": "image's"}],
}
HEADERS = {"Metadata-Flavor": "AppContainer"}
SECONDS = 60.0


@dataclass(frozen=True)
class Made:
    """A pod directory. url: AC_METADATA_URL."""

    path: Path
    uid: str
    url: str


@dataclass
class Asked:
    """What came back."""

    status: int
    type: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path / "keys" / "key", make=True)


@pytest.fixture
async def service(keys: Keys) -> AsyncIterator[Service]:
    made = Service(keys, lambda image_id: {**IMAGE, "labels": [{"name": "id", "value": image_id}]})
    yield made
    await made.shut()


@pytest.fixture
def manifest() -> dict[str, Any]:
    """As stage0 writes them: with what is ours in it."""
    return {
        "acVersion": "0.8.11",
        "acKind": "PodManifest",
        "apps": [
            {
                "name": "web",
                "image": {"id": "sha256:1234"},
                "app": {
                    "exec": ["/web"],
                    "user": "0",
                    "group": "0",
                    "environment": [{"name": "A", "value": "ü"}, {"name": "1x", "value": "y"}],
                    "isolators": [
                        {"name": "gantry.io/rlimits", "value": {}},
                        {"name": "resource/memory", "value": {"limit": "1G"}},
                    ],
                },
                "gantry.io/image-volumes": ["/data"],
                "mounts": [
                    {"volume": "termination.web", "path": "/t"},
                    {"volume": "data", "path": "/d", "gantry.io/sub-path": "x"},
                ],
                "annotations": [{"name": "tier", "value": "pod's"}, {"name": "colour", "value": "bläu"}],
            }
        ],
        "volumes": [
            {"name": "data", "kind": "empty", "gantry.io/medium": "Memory"},
            {"name": "termination.web", "kind": "host", "source": "/x"},
        ],
        "isolators": [{"name": "gantry.io/pids", "value": {"limit": 9}}],
        "annotations": [{"name": "ip-address", "value": "10.1.2.3"}, {"name": "a/b", "value": "c"}],
    }


@pytest.fixture
def make_pod(tmp_path: Path, service: Service, manifest: dict[str, Any]) -> Callable[..., Made]:
    """A pod directory that the service knows, on the host's network unless told otherwise."""

    def make(*, host_network: bool = True, uid: str = "") -> Made:
        uid = uid or str(uuid.uuid4())
        path = tmp_path / "pods" / f"{uid}.1"
        path.mkdir(parents=True)
        (path / "pod").write_text(json.dumps(manifest))
        meta = {"name": "web-1", "namespace": "shop", "uid": uid, "labels": {"app": "Web"}}
        meta["annotations"] = {
            "team": "blue",
            "Odd Name": "x",
            "ip-address": "not this",
            "gantry.io/pod-name": "y",
        }
        service.prepare(path, {"metadata": meta, "spec": {"hostNetwork": host_network}}, "linux")
        return Made(path, uid, (path / URL_FILE).read_text())

    return make


@pytest.fixture
async def ask() -> AsyncIterator[Callable[..., Any]]:
    """`await ask(url, "POST", data=…)`, with the header unless `headers` are given."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(SECONDS)) as session:

        async def do(url: str, method: str = "GET", **more: Any) -> Asked:
            more.setdefault("headers", HEADERS)
            async with session.request(method, url, **more) as answer:
                return Asked(
                    answer.status,
                    answer.headers.get("Content-Type", ""),
                    await answer.read(),
                    dict(answer.headers),
                )

        yield do


NETWORK = """
import sys
from executor.stage1 import ops, syscalls
syscalls.unshare(syscalls.CLONE_NEWNET)
ops.Loopback().execute(None)
print("there", flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True)
class Network:
    """A process in a network of its own."""

    pid: int


def may_make_networks() -> bool:
    probe = subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False)
    return os.geteuid() == 0 and probe.returncode == 0


@pytest.fixture
def make_network() -> Iterator[Callable[[], Network]]:
    """Networks with loopback, as pods have them; gone after the test."""
    if not may_make_networks():
        pytest.skip("needs root, and network namespaces")
    processes = []

    def make() -> Network:
        process = subprocess.Popen(
            [sys.executable, "-c", NETWORK], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        return Network(process.pid)

    yield make
    for process in processes:
        process.communicate()


def request(url: str, path: str, headers: str) -> bytes:
    host = url.removeprefix("http://").partition("/")[0]
    place = url.removeprefix(f"http://{host}")
    return f"GET {place}/acMetadata/v1{path} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n".encode()


@pytest.fixture
def ask_inside() -> Callable[..., Any]:
    """`await ask_inside(pid, url, "/pod/uuid")` from within the network of a process: status and body."""

    async def do(
        pid: int, url: str, path: str, headers: str = "Metadata-Flavor: AppContainer\r\n"
    ) -> tuple[int, str]:
        host, _, port = url.removeprefix("http://").partition("/")[0].partition(":")
        loop = asyncio.get_running_loop()
        with netns.make_socket(pid, socket.AF_INET) as made:
            made.setblocking(False)
            async with asyncio.timeout(SECONDS):
                await loop.sock_connect(made, (host, int(port)))
                await loop.sock_sendall(made, request(url, path, headers))
                answer = b""
                while data := await loop.sock_recv(made, 1 << 16):
                    answer += data
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]), body.decode()

    return do
