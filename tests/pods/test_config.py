"""The executor's flags and environment, and the doors to Mesos and to users, without Mesos."""

import asyncio
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from executor.app import main
from executor.config import Settings, parser, settings
from executor.idle import IdleTimer
from executor.mesos import PodExecutor
from executor.pods.core.effects import Report
from executor.pods.objects import Objects
from executor.pods.supplies import Supplies
from executor.server.app import Tokens
from shared.mesos.executor_driver import NotConnected
from shared.wire import IDLE_TIMEOUT_VARIABLE, Launch, PodEvent, Supply, Wanted, digest_of
from shared.wire import Report as WireReport


def parse(*argv: str, **environ: str) -> Settings:
    return settings(parser().parse_args(list(argv)), environ)


def test_defaults() -> None:
    made = parse()
    assert (made.state_dir, made.local_images, made.flavor) == (Path("/var/lib/gantry"), None, "linux")
    assert (made.listen_host, made.listen_port, made.ip) == ("0.0.0.0", 0, "127.0.0.1")
    assert made.pods_dir == Path("/var/lib/gantry/pods")


def test_when_it_leaves() -> None:
    assert parse().idle_timeout == 0.0
    assert parse(**{IDLE_TIMEOUT_VARIABLE: "90"}).idle_timeout == 90.0
    assert parse("--idle-timeout", "5", **{IDLE_TIMEOUT_VARIABLE: "90"}).idle_timeout == 5.0
    for wrong in ("soon", "-1", "nan", "inf"):
        with pytest.raises(ValueError, match=f"{IDLE_TIMEOUT_VARIABLE} .*expected seconds"):
            parse(**{IDLE_TIMEOUT_VARIABLE: wrong})


async def test_an_idle_executor_leaves_once() -> None:
    """The first timer is stopped by a task; the second is started after it, so when that fires the first never will."""
    left: list[str] = []
    over = asyncio.Event()
    first = IdleTimer(0.02, lambda reason: (left.append(reason), over.set()))
    second = IdleTimer(0.02, lambda reason: over.set())
    first.start()
    first.came("a")
    first.came("b")
    second.start()
    async with asyncio.timeout(60):
        await over.wait()
    assert left == []
    first.went("a")
    first.start()
    over.clear()
    first.went("b")
    async with asyncio.timeout(60):
        await over.wait()
    assert left == ["no pod for 0.02 s"]


def test_what_the_agent_says() -> None:
    made = parse(MESOS_SANDBOX="/sandbox", LIBPROCESS_IP="10.0.0.1", MESOS_AGENT_ENDPOINT="10.0.0.2:5051")
    assert (made.pods_dir, made.ip) == (Path("/sandbox/pods"), "10.0.0.1")


@pytest.mark.parametrize(
    ("argv", "environ", "ip"),
    [
        (["--node-listen", "10.0.0.9:80"], {"LIBPROCESS_IP": "10.0.0.1"}, "10.0.0.9"),
        (["--node-listen", "[fd00::1]:80"], {}, "fd00::1"),
        ([], {"LIBPROCESS_IP": "0.0.0.0", "MESOS_AGENT_ENDPOINT": "10.0.0.2:5051"}, "10.0.0.2"),
        ([], {"MESOS_AGENT_ENDPOINT": "[fd00::2]:5051"}, "fd00::2"),
    ],
)
def test_the_address_others_use(argv: list[str], environ: dict[str, str], ip: str) -> None:
    assert parse(*argv, **environ).ip == ip


@pytest.mark.parametrize("listen", ["80", "host:", "host:http", "host:70000"])
def test_an_address_that_is_none_is_refused(listen: str) -> None:
    with pytest.raises(ValueError, match="--node-listen"):
        parse("--node-listen", listen)


def test_who_starts_it_by_hand_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MESOS_FRAMEWORK_ID", raising=False)
    assert main(["--state-dir", str(tmp_path)]) == 1
    assert capsys.readouterr().err == (
        "gantry: error: MESOS_FRAMEWORK_ID is not set: an executor is started by a Mesos agent\n"
    )


class RecordingDriver:
    """Keeps the updates it is asked to send."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.messages: list[str] = []
        self.away = False

    def sendFrameworkMessage(self, data: str) -> None:
        if self.away:
            raise NotConnected("not subscribed")
        self.messages.append(data)

    def sendStatusUpdate(self, status: dict[str, Any]) -> None:
        self.sent.append(status)


class RecordingPods:
    """Keeps what it is asked to do."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    def launch(self, task_id: str, pod: Any, supplies: Supplies) -> None:
        if "metadata" not in pod:
            raise ValueError("not a v1 Pod: KeyError: 'metadata'")
        self.asked.append(("launch", task_id, pod, supplies))

    def provide(self, task_id: str, objects: Objects, digest: str) -> None:
        self.asked.append(("provide", task_id, objects, digest))

    def kill(self, task_id: str, grace: float | None, message: str) -> bool:
        self.asked.append(("kill", task_id, grace))
        return True


@pytest.fixture
def parts() -> tuple[PodExecutor, RecordingDriver, RecordingPods, Tokens, list[tuple[str, bool]]]:
    stops: list[tuple[str, bool]] = []
    tokens, driver, pods = Tokens(), RecordingDriver(), RecordingPods()
    executor = PodExecutor("10.0.0.1", tokens, lambda reason, failed: stops.append((reason, failed)))
    executor.attach(pods, driver, "10.0.0.1:31")  # type: ignore[arg-type]
    return executor, driver, pods, tokens, stops


Parts = tuple[PodExecutor, RecordingDriver, RecordingPods, Tokens, list[tuple[str, bool]]]


def test_a_launch_becomes_a_pod(parts: Parts) -> None:
    executor, driver, pods, tokens, _ = parts
    executor.registered(
        driver,
        {},
        {},
        {
            "hostname": "agent-1",
            "resources": [
                {"name": "cpus", "type": "SCALAR", "scalar": {"value": 3.5}},
                {"name": "cpus", "type": "SCALAR", "scalar": {"value": 0.5}},
                {"name": "mem", "type": "SCALAR", "scalar": {"value": 1024.0}},
                {"name": "ports", "type": "RANGES", "ranges": {"range": []}},
            ],
        },
    )
    pod = {"metadata": {"name": "web"}}
    executor.launchTask(
        driver, {"task_id": {"value": "u.1"}, "data": Launch(pod, "node-1", "secret", "fly").encode()}
    )
    assert pods.asked == [("launch", "u.1", pod, Supplies("fly", digest=digest_of({})))]
    assert tokens.good("Bearer secret")
    assert (executor.node.name, executor.node.cpus, executor.node.memory) == ("node-1", Fraction(4), 1 << 30)
    assert driver.sent == []


@pytest.mark.parametrize(
    ("task", "says"),
    [
        ({}, "not base64 of JSON"),
        ({"data": "e30="}, "version None is unknown"),
        ({"data": Launch({}, "n", "t").encode()}, "not a v1 Pod"),
    ],
)
def test_a_launch_that_is_none_fails_its_task(parts: Parts, task: dict[str, Any], says: str) -> None:
    executor, driver, *_ = parts
    executor.launchTask(driver, {"task_id": {"value": "u.1"}, **task})
    [update] = driver.sent
    assert (update["task_id"], update["state"]) == ({"value": "u.1"}, "TASK_FAILED")
    assert says in update["message"]
    assert WireReport.decode(update["data"]).status["phase"] == "Failed"


def test_objects_are_asked_for_and_come(parts: Parts) -> None:
    executor, driver, pods, *_ = parts
    executor.want("u.1", "abc")
    driver.away = True
    executor.want("u.2", "def")
    assert [Wanted.decode(one) for one in driver.messages] == [Wanted("u.1", "abc")]
    objects = {"secrets": {"s": {"data": {"k": "eA=="}}}}
    executor.frameworkMessage(driver, Supply("u.1", objects).encode())
    for broken in ("", Wanted("u.1", "").encode(), Supply("u.1", {"secrets": 1}).encode()):
        executor.frameworkMessage(driver, broken)
    assert pods.asked == [("provide", "u.1", Objects(secrets={"s": {"k": b"x"}}), digest_of(objects))]


def test_a_task_group_is_refused(parts: Parts) -> None:
    executor, driver, *_ = parts
    executor.launchTaskGroup(driver, [{"task_id": {"value": "a"}}, {"task_id": {"value": "b"}}])
    assert [u["state"] for u in driver.sent] == ["TASK_FAILED"] * 2


@pytest.mark.parametrize(
    ("policy", "grace"),
    [
        (None, None),
        ({}, None),
        ({"grace_period": {"nanoseconds": 1_500_000_000}}, 1.5),
        ({"grace_period": {"x": 1}}, None),
    ],
)
def test_a_kill_has_the_grace_of_its_policy(parts: Parts, policy: Any, grace: float | None) -> None:
    executor, driver, pods, *_ = parts
    executor.killTask(driver, {"value": "u.1"}, policy)
    assert pods.asked == [("kill", "u.1", grace)]


def test_a_report_becomes_an_update(parts: Parts) -> None:
    executor, driver, *_ = parts
    event = PodEvent("Normal", "Started", "Started container c", "c", "2026-01-02T03:04:05Z")
    executor.report("u.1", Report("TASK_RUNNING", "two\nlines " + "x" * 5000, {"phase": "Running"}, (event,)))
    [update] = driver.sent
    assert update["message"].startswith("two lines xxx")
    assert len(update["message"]) == 1000
    assert WireReport.decode(update["data"]) == WireReport({"phase": "Running"}, "10.0.0.1:31", (event,))


def test_the_end_is_passed_on(parts: Parts) -> None:
    executor, driver, _, _, stops = parts
    executor.shutdown(driver)
    executor.error(driver, "the agent refused a status update")
    assert stops == [
        ("the agent told the executor to shut down", False),
        ("the agent refused a status update", True),
    ]


def test_tokens() -> None:
    tokens = Tokens()
    tokens.add("")
    assert not tokens.good("Bearer ")
    for number in range(70):
        tokens.add(f"t{number}")
    assert not tokens.good("Bearer t0")  # the oldest are forgotten
    assert tokens.good("Bearer t69")
    assert tokens.good("bearer t6")
    assert not tokens.good("t69")
