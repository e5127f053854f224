"""Hooks and probes for real: in a pod that has only loopback of its own network, and in one that has the host's."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.events
import pytest

from executor.pods.core.events import Answer
from executor.pods.grpchealth import GrpcError, Serving, ask
from executor.pods.handlers import Place, probe
from executor.stage0.acmanifest import host_labels
from executor.stage0.build import Options, build_aci

pytestmark = pytest.mark.root

Host = Any
FOREVER = "trap 'exit 0' TERM; while :; do sleep 0.02; done"
HTTPD = """
echo fine > /tmp/index.html; trap 'exit 0' TERM; httpd -f -p 127.0.0.1:8000 -h /tmp & while :; do wait; done
"""


def shown(report: Any, app: str = "c0") -> Any:
    return next(c for c in report.status["containerStatuses"] if c["name"] == app)


def ready(report: Any) -> bool:
    return bool(shown(report)["ready"])


def told(reason: str) -> Callable[[Any], bool]:
    return lambda report: any(e.reason == reason for e in report.events)


def message(report: Any, reason: str) -> str:
    return next(e.message for e in report.events if e.reason == reason)


def runs(report: Any) -> bool:
    return bool(report.state == "TASK_RUNNING")


# --- hooks -----------------------------------------------------------------------------------------------------------


async def test_hooks_are_run_in_the_app_as_the_app(host: Host) -> None:
    who = "echo $1 $(id -u) $WORD >> /v/said"
    task = host.run(
        {
            "run": "trap 'cat /v/said; exit 0' TERM; while :; do sleep 0.02; done",
            "env": [{"name": "WORD", "value": "hi"}],
            "securityContext": {"runAsUser": 1000},
            "volumeMounts": [{"name": "v", "mountPath": "/v"}],
            "lifecycle": {
                "postStart": {"exec": {"command": ["/bin/sh", "-c", who, "sh", "start"]}},
                "preStop": {"exec": {"command": ["/bin/sh", "-c", who, "sh", "stop"]}},
            },
        },
        volumes=[{"name": "v", "emptyDir": {}}],
    )
    await host.until(task, runs)
    host.pods.kill(task, 10.0, "deleted")
    assert (await host.end(task)).state == "TASK_KILLED"
    assert await host.log("p") == "start 1000 hi\nstop 1000 hi\n"


async def test_a_hook_that_fails(host: Host) -> None:
    task = host.run(
        {"run": FOREVER, "lifecycle": {"postStart": {"exec": {"command": ["/bin/sh", "-c", "exit 3"]}}}}
    )
    assert (
        await host.end(task)
    ).state == "TASK_FINISHED"  # policy Never, and the app ends well on its signal
    found = [e.message for r in host.reports[task] for e in r.events if e.reason == "FailedPostStartHook"]
    assert found == ["PostStartHook failed: command exited with 3"]


async def test_hooks_over_http_and_by_waiting(host: Host) -> None:
    get = {"httpGet": {"port": "web", "path": "/", "scheme": "HTTP"}}
    task = host.run(
        {
            "run": HTTPD,
            "ports": [{"name": "web", "containerPort": 8000}],
            "readinessProbe": {"tcpSocket": {"port": "web"}, "periodSeconds": 0.05},
            "lifecycle": {"postStart": {"sleep": {"seconds": 0}}, "preStop": get},
        }
    )
    await host.until(task, ready)
    host.pods.kill(task, 10.0, "deleted")
    await host.end(task)
    assert [e.message for r in host.reports[task] for e in r.events if e.reason.startswith("Failed")] == []


# --- event handlers of images ---------------------------------------------------------------------------------------


@pytest.fixture
def handling(tmp_path: Path, rootfs: Path) -> Callable[..., str]:
    """`handling(pre=script, post=script)`: the name of an image with these event handlers (appc)."""

    def make(**scripts: str) -> str:
        names = {"pre": "pre-start", "post": "post-stop"}
        manifest = {
            "acKind": "ImageManifest",
            "acVersion": "0.8.11",
            "name": "example.com/handling",
            "labels": [{"name": name, "value": value} for name, value in host_labels().items()],
            "app": {
                "exec": ["/bin/sh", "-c", "true"],
                "user": "0",
                "group": "0",
                "environment": [{"name": "PATH", "value": "/bin"}, {"name": "WORD", "value": "hi"}],
                "eventHandlers": [
                    {"name": names[when], "exec": ["/bin/sh", "-c", script]}
                    for when, script in scripts.items()
                ],
            },
        }
        path = tmp_path / "handling.aci"
        build_aci(rootfs, path, manifest, Options(), "none")
        return f"file://{path}"

    return make


async def test_event_handlers_run_before_and_after(host: Host, handling: Callable[..., str]) -> None:
    image = handling(
        pre="echo pre $WORD $(id -u) > /tmp/said; cat /tmp/said", post="echo post; cat /tmp/said"
    )
    task = host.run({"image": image, "run": "echo main; cat /tmp/said; exit 7"})
    report = await host.end(task)
    assert shown(report)["state"]["terminated"]["exitCode"] == 7
    assert (await host.log("p")).split("\n")[:-1] == ["pre hi 0", "main", "pre hi 0", "post", "pre hi 0"]


async def test_a_pre_start_handler_that_fails_fails_the_app(host: Host, handling: Callable[..., str]) -> None:
    task = host.run({"image": handling(pre="echo no; exit 3"), "run": "echo main"})
    report = await host.end(task)
    ended = shown(report)["state"]["terminated"]
    assert (report.state, ended["reason"]) == ("TASK_FAILED", "StartError")
    assert ended["message"] == "the image's pre-start handler ended with exit code 3"


async def test_a_pod_that_ends_does_not_wait_for_a_pre_start_handler(
    host: Host, handling: Callable[..., str]
) -> None:
    task = host.run({"image": handling(pre="echo here; sleep 1000"), "run": "echo main"})
    while not host.pods.find("default", "p").handles("c0"):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    host.pods.kill(task, 1000.0, "deleted")
    assert (await host.end(task)).state == "TASK_KILLED"


async def test_a_post_stop_handler_is_within_the_grace(host: Host, handling: Callable[..., str]) -> None:
    task = host.run({"image": handling(post="sleep 1000"), "run": FOREVER})
    await host.until(task, runs)
    host.pods.kill(task, 0.3, "deleted")
    assert (await host.end(task)).state == "TASK_KILLED"


# --- probes ----------------------------------------------------------------------------------------------------------


async def test_readiness_over_http_in_the_pods_own_network(host: Host) -> None:
    task = host.run(
        {
            "run": HTTPD,
            "readinessProbe": {"httpGet": {"port": 8000}, "periodSeconds": 0.05, "failureThreshold": 1},
        }
    )
    await host.until(task, ready)
    with pytest.raises(OSError, match="refused"):  # it is not in ours
        socket.create_connection(("127.0.0.1", 8000), 1)


async def test_liveness_by_a_command(host: Host) -> None:
    task = host.run(
        {
            "run": FOREVER,
            "livenessProbe": {
                "exec": {"command": ["/bin/sh", "-c", "echo not well; exit 1"]},
                "periodSeconds": 0.05,
                "failureThreshold": 2,
            },
        },
        restartPolicy="Always",
    )
    report = await host.until(task, lambda r: shown(r)["restartCount"] == 1)
    events = [e for r in host.reports[task] for e in r.events]
    assert "Liveness probe failed: not well" in [e.message for e in events]
    assert "Container c0 failed liveness probe, will be restarted" in [e.message for e in events]
    assert shown(report)["lastState"]["terminated"]["exitCode"] == 0


@pytest.fixture
async def place(host: Host) -> AsyncIterator[Callable[..., Any]]:
    """`await place(script)`: an app that runs it."""

    async def make(script: str, **fields: Any) -> Place:
        task = host.run({"run": script, **fields})
        await host.until(task, runs)
        runner = host.pods.find("default", "p")
        return runner.place("c0")

    return make


async def until_open(place: Place, port: int) -> None:
    async with asyncio.timeout(60):
        while (await probe(place, {"tcpSocket": {"port": port}}))[0] is not Answer.SUCCESS:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_what_probes_say(place: Callable[..., Any]) -> None:
    made = await place(HTTPD)
    await until_open(made, 8000)
    get = {"httpGet": {"port": 8000}}
    assert await probe(made, get) == (Answer.SUCCESS, "")
    assert await probe(made, {"httpGet": {"port": 8000, "path": "nope?x=1"}}) == (
        Answer.FAILURE,
        "HTTP probe failed with statuscode: 404",
    )
    assert await probe(made, {"httpGet": {"port": 8001}}) == (
        Answer.FAILURE,
        'Get "http://127.0.0.1:8001/": connect: connection refused',
    )
    assert await probe(made, {"tcpSocket": {"port": 8001}}) == (
        Answer.FAILURE,
        "dial tcp 127.0.0.1:8001: connect: connection refused",
    )
    assert (await probe(made, {"tcpSocket": {"port": "nope"}}))[0] is Answer.UNKNOWN
    answer, said = await probe(made, {"grpc": {"port": 8000}})
    assert answer is Answer.FAILURE
    assert said.startswith("error: health rpc failed: ")
    run = lambda *command: probe(made, {"exec": {"command": list(command)}, "timeoutSeconds": 0.2})  # noqa: E731
    assert await run("true") == (Answer.SUCCESS, "")
    assert await run("sh", "-c", "echo out; echo err >&2; exit 2") == (Answer.FAILURE, "out\nerr")
    assert await run("sleep", "60") == (
        Answer.FAILURE,
        'command timed out: "sleep 60" timed out after 0.2s',
    )
    assert (await run("/bin/nope"))[0] is Answer.UNKNOWN
    answer, said = await run("sh", "-c", "seq 100000; exit 1")
    assert answer is Answer.FAILURE
    assert len(said) <= 10 * 1024


# --- gRPC ------------------------------------------------------------------------------------------------------------


class Health(asyncio.Protocol):
    """A server of grpc.health.v1 that answers what it is told to: the real protocol, by h2."""

    asked: bytes = b""
    reply: bytes = b"\x08\x01"
    status: str = "0"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        self.transport: Any = transport
        self.http.initiate_connection()
        transport.write(self.http.data_to_send())  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        for event in self.http.receive_data(data):
            if isinstance(event, h2.events.DataReceived):
                type(self).asked = event.data or b""
            if isinstance(event, h2.events.StreamEnded):
                self.answer(event.stream_id)
        self.transport.write(self.http.data_to_send())

    def answer(self, stream: int) -> None:
        self.http.send_headers(stream, [(":status", "200"), ("content-type", "application/grpc")])
        self.http.send_data(stream, b"\0" + len(self.reply).to_bytes(4, "big") + self.reply)
        trailers = [("grpc-status", self.status), ("grpc-message", "unknown%20service")]
        self.http.send_headers(stream, trailers, end_stream=True)


async def check(service: str = "", **fields: Any) -> tuple[Serving, bytes]:
    protocol = type("Told", (Health,), fields)
    server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        connected = socket.create_connection(("127.0.0.1", port))
        connected.setblocking(False)
        with connected:
            return await ask(connected, "x", service, 1.0), protocol.asked
    finally:
        server.close()


@pytest.mark.parametrize(
    "frames",
    [
        [(1, 4, 1, b"\x88" + b"\x40\x01x\x02\xff\xfe")],  # :status 200, and a header that is no UTF-8
        [(1, 4, 1, b"\x40\x07:status\x03\xff00")],
        [(0, 1, 1, b"x")],
        [(3, 0, 1, b"\0\0\0\xff")],
        [(7, 0, 0, bytes(8))],
        [(8, 0, 0, bytes(4))],
        [(4, 0, 0, bytes(5))],
        [(9, 4, 1, b"x")],
        [],
    ],
)
async def test_answers_that_are_no_grpc_are_failures(frames: list[tuple[int, int, int, bytes]]) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        for kind, flags, stream, payload in [(4, 0, 0, b""), *frames]:
            length = len(payload).to_bytes(3, "big")
            theirs.sendall(length + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload)
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(GrpcError):
            await ask(ours, "x", "", 1.0)


async def test_grpc_health() -> None:
    assert await check() == (Serving.SERVING, b"\0\0\0\0\0")
    assert await check("abc") == (Serving.SERVING, b"\0\0\0\0\x05\x0a\x03abc")
    long = (await check("x" * 200))[1]
    assert long == b"\0\0\0\0\xcb\x0a\xc8\x01" + b"x" * 200
    assert (await check(reply=b"\x08\x02"))[0] is Serving.NOT_SERVING
    assert (await check(reply=b""))[0] is Serving.UNKNOWN


@pytest.mark.parametrize("fields", [{"status": "5"}, {"reply": b"\x08\x09"}, {"reply": b"\x12\x00"}])
async def test_grpc_health_that_is_none(fields: dict[str, Any]) -> None:
    with pytest.raises(GrpcError):
        await check(**fields)
