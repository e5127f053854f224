"""What the API tests share: a store, a server with a controllable clock and nodes, a small HTTP client."""

import asyncio
import io
import ipaddress
import itertools
import json
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from scheduler.api.app import make_app
from scheduler.api.checks import HealthReport
from scheduler.api.server import start_server
from scheduler.store import Key
from scheduler.store.sqlite import SqliteStore

TOKEN = "s3cret"


class Clock:
    """Stands still unless told."""

    def __init__(self) -> None:
        self.now = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **delta: float) -> None:
        self.now += timedelta(**delta)


class Nodes:
    """The nodes' end of logs: sends `chunks`, then, when following, waits until `more` is told or cancelled."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, dict[str, str]]] = []
        self.chunks: list[bytes] = [b"one\n", b"two\n"]
        self.error: Exception | None = None
        self.more: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.asked = asyncio.Event()
        self.ended = asyncio.Event()
        self.server = ""

    def where(self, pod: dict[str, Any]) -> tuple[str, str]:
        return self.server, "node-token"

    async def logs(
        self, pod: dict[str, Any], container: str, query: Mapping[str, str]
    ) -> AsyncIterator[bytes]:
        self.calls.append((pod["metadata"]["name"], container, dict(query)))
        self.asked.set()
        try:
            if self.error is not None:
                raise self.error
            for chunk in self.chunks:
                yield chunk
            while query.get("follow") == "true":
                chunk = await self.more.get()
                if chunk is None:
                    return
                yield chunk
        finally:
            self.ended.set()


@dataclass
class Answer:
    status: int
    headers: Mapping[str, str]
    text: str
    warnings: list[str] = field(default_factory=list)

    @property
    def json(self) -> Any:
        return json.loads(self.text)


class Client:
    """HTTP requests to the server; `watch` reads events as they come."""

    def __init__(self, session: aiohttp.ClientSession, base: str) -> None:
        self.session = session
        self.base = base

    async def __call__(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
        **query: Any,
    ) -> Answer:
        if isinstance(body, bytes) and len(body) > 1 << 20:
            body = io.BytesIO(body)
        data = body if isinstance(body, bytes | str | io.BytesIO | None) else json.dumps(body)
        sent = (
            {"Content-Type": "application/json", **(headers or {})}
            if data is not None
            else dict(headers or {})
        )
        async with self.session.request(
            method, self.base + path, data=data, headers=sent, params={k: str(v) for k, v in query.items()}
        ) as response:
            text = await response.text()
            return Answer(response.status, response.headers, text, response.headers.getall("Warning", []))

    async def get(self, path: str, **query: Any) -> Any:
        return (await self("GET", path, **query)).json

    async def watch(self, path: str, *, headers: Mapping[str, str] | None = None, **query: Any) -> "Stream":
        params = {"watch": "true", **{k: str(v) for k, v in query.items()}}
        response = await self.session.get(self.base + path, params=params, headers=headers)
        return Stream(response)


class Stream:
    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response

    async def next(self) -> Any:
        """The next event, None at the end."""
        async with asyncio.timeout(60):
            line = await self.response.content.readline()
        return json.loads(line) if line else None

    async def take(self, count: int) -> list[tuple[str, str]]:
        """(type, name) of the next events."""
        events = [await self.next() for _ in range(count)]
        return [(event["type"], event["object"]["metadata"].get("name", "")) for event in events]

    def close(self) -> None:
        self.response.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def nodes() -> Nodes:
    return Nodes()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(tmp_path / "store.db", history=200)
    await store.open()
    yield store
    await store.close()
    # Whatever a test did: nobody may have changed an object that all readers share.
    for resource in ("pods", "namespaces", "nodes", "events"):
        for entry in store.list(resource)[0]:
            assert json.loads(entry.raw) == entry.obj


@pytest.fixture
def token() -> str | None:
    return None


@pytest.fixture
def report() -> list[HealthReport]:
    """What the process says of its health; tests replace the item."""
    return [HealthReport()]


class Watches(set[Any]):
    """The watches a server serves; `none` is set while there are none."""

    def __init__(self) -> None:
        super().__init__()
        self.none = asyncio.Event()

    def add(self, watch: Any) -> None:
        super().add(watch)
        self.none.clear()

    def discard(self, watch: Any) -> None:
        super().discard(watch)
        if not self:
            self.none.set()


@pytest.fixture
async def app(store, clock, nodes, token, report):
    uids = (f"00000000-0000-4000-8000-{n:012}" for n in itertools.count(1))
    suffixes = (f"{n:05}" for n in itertools.count())
    return make_app(
        store,
        nodes=nodes,
        version="0.1.0",
        token=token,
        clock=clock,
        health=lambda: report[0],
        new_uid=lambda: next(uids),
        suffix=lambda: next(suffixes),
        watches=Watches(),
    )


@pytest.fixture
async def server(app):
    """(runner, port), stopped at the end of the test."""
    runner, port = await start_server(app, "127.0.0.1", 0)
    yield runner, port
    await runner.cleanup()


@pytest.fixture
async def api(server) -> AsyncIterator[Client]:
    async with aiohttp.ClientSession() as session:
        yield Client(session, f"http://127.0.0.1:{server[1]}")


@pytest.fixture
def pod() -> Callable[..., dict[str, Any]]:
    def make(name: str = "web", labels: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
        containers = [{"name": "c", "image": "localhost/hello:1"}]
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, **({"labels": labels} if labels else {})},
            "spec": {"containers": containers, **spec},
        }

    return make


@pytest.fixture
def stored(store) -> Callable[..., Awaitable[None]]:
    """Changes a stored object as the engine would: `await stored("pods", "default", "web", spec={...})`."""

    async def change(resource: str, namespace: str, name: str, **parts: dict[str, Any]) -> None:
        def update(old):
            base = old.obj if old else {"apiVersion": "v1", "metadata": {"name": name}}
            return {**base, **{part: {**base.get(part, {}), **value} for part, value in parts.items()}}

        await store.commit((Key(resource, namespace, name), update))

    return change


@pytest.fixture
def running(stored) -> Callable[[str], Awaitable[None]]:
    """Makes a pod run on node n1."""

    async def run(name: str) -> None:
        state = {"running": {"startedAt": "2026-03-01T12:00:00Z"}}
        status = {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [
                {"name": "c", "image": "i", "imageID": "", "ready": True, "restartCount": 0, "state": state}
            ],
        }
        await stored("pods", "default", name, spec={"nodeName": "n1"}, status=status)

    return run


class ThreadedServer:
    """The server on its own thread and loop, for clients that block (kubectl, the official client)."""

    def __init__(self, path: Path, tls: ssl.SSLContext | None = None) -> None:
        self.path = path
        self.tls = tls
        self.nodes: Nodes
        self.store: SqliteStore
        self.port = 0
        self._ready = threading.Event()
        self._stop: asyncio.Event
        self.loop: asyncio.AbstractEventLoop
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._main)

    def __enter__(self) -> "ThreadedServer":
        self._thread.start()
        assert self._ready.wait(90)
        if self._error is not None:
            raise self._error
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(90)

    def call(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(90)

    def _main(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # noqa: BLE001 - told to the test, which raises it
            self._error = error
            self._ready.set()

    async def _serve(self) -> None:
        self.loop, self._stop, self.nodes = asyncio.get_running_loop(), asyncio.Event(), Nodes()
        self.store = SqliteStore(self.path / "store.db")
        await self.store.open()
        app = make_app(self.store, nodes=self.nodes, version="0.1.0", token=TOKEN)
        runner, self.port = await start_server(app, "127.0.0.1", 0, tls=self.tls)
        self._ready.set()
        await self._stop.wait()
        await runner.cleanup()
        await self.store.close()

    def run_pod(self, name: str) -> None:
        """What the engine would do: the pod runs on n1."""
        state = {"running": {"startedAt": "2026-03-01T12:00:00Z"}}
        container = {
            "name": "c",
            "image": "i",
            "imageID": "",
            "ready": True,
            "restartCount": 0,
            "state": state,
        }
        conditions = [{"type": "Ready", "status": "True"}]

        def update(old):
            status = {"phase": "Running", "conditions": conditions, "containerStatuses": [container]}
            return {**old.obj, "spec": {**old.obj["spec"], "nodeName": "n1"}, "status": status}

        self.call(self.store.commit((Key("pods", "default", name), update)))

    def remove(self, name: str) -> None:
        self.call(self.store.commit((Key("pods", "default", name), lambda old: None)))


@pytest.fixture
def live_tls(tmp_path: Path) -> Iterator[ThreadedServer]:
    """As `live`, over TLS; the certificate is tmp_path/cert.pem."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gantry")])
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime.now(UTC) - timedelta(days=1))
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (tmp_path / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (tmp_path / "key.pem").write_bytes(key.private_bytes(*private))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    with ThreadedServer(tmp_path, tls) as server:
        yield server


@pytest.fixture
def live(tmp_path: Path) -> Iterator[ThreadedServer]:
    with ThreadedServer(tmp_path) as server:
        yield server
