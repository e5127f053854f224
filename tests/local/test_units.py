"""The agent's and master's smaller parts on their own."""

import gzip
import os
import tarfile
import zipfile

import pytest

from local.agent import checkpoint
from local.agent.checkpoint import CheckpointError, Paths
from local.agent.containers.fetcher import FetchError, fetch
from local.agent.containers.isolation import subsystems
from local.agent.containers.processes import Identity, session_and_descendants
from local.agent.flags import parse as agent_flags
from local.agent.recovery import compatible
from local.agent.updates import StatusUpdates
from local.master import reconcile
from local.master.flags import parse as master_flags
from local.master.model import Framework
from local.master.registry import Registry, RegistryError
from local.tasks import Task
from local.wire.http import accepts
from shared.mesos.resources import Resources

# ---- status updates


class Clock:
    """Timers that fire when told."""

    def __init__(self):
        self.timers = []

    def later(self, delay, callback):
        entry = [delay, callback, True]
        self.timers.append(entry)
        clock = self

        class Timer:
            def cancel(self):
                entry[2] = False
                clock.timers = [t for t in clock.timers if t[2]]

        return Timer()

    def fire(self):
        ((delay, callback, _),) = self.timers
        self.timers.clear()
        callback()
        return delay


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def sent():
    return []


@pytest.fixture
def updates(clock, sent):
    result = StatusUpdates(lambda framework_id, status: sent.append(status["uuid"]), clock.later)
    result.resume()
    return result


def status(uuid, state="TASK_RUNNING", task="t"):
    return {"task_id": {"value": task}, "state": state, "uuid": uuid}


def test_one_update_of_a_task_is_in_flight(updates, sent):
    for uuid in "123":
        assert updates.update("f", status(uuid), None)
    assert updates.update("f", status("4", task="u"), None)
    assert sent == ["1", "4"]
    assert not updates.acknowledge("f", "t", "1")
    assert sent == ["1", "4", "2"]


def test_an_update_is_sent_again_ever_more_rarely(updates, sent, clock):
    updates.update("f", status("1"), None)
    delays = [clock.fire() for _ in range(9)]
    assert delays == [10, 20, 40, 80, 160, 320, 600, 600, 600]
    assert sent == ["1"] * 10


def test_the_master_away_and_back(updates, sent, clock):
    updates.update("f", status("1"), None)
    updates.pause()
    updates.update("f", status("2"), None)
    assert not clock.timers
    updates.resume()
    assert sent == ["1", "1"]


def test_duplicates_and_strange_acknowledgements(updates, sent):
    updates.update("f", status("1"), None)
    assert not updates.update("f", status("1"), None)
    assert not updates.acknowledge("f", "t", "9")
    assert not updates.acknowledge("f", "other", "1")
    updates.update("f", status("2", "TASK_FINISHED"), None)
    assert not updates.acknowledge("f", "t", "2")  # 1 is in flight
    assert not updates.acknowledge("f", "t", "1")
    assert updates.acknowledge("f", "t", "2")


def test_a_removed_framework_is_not_waited_for(updates, clock):
    updates.update("f", status("1"), None)
    updates.cleanup("f")
    assert not clock.timers


def test_recovered_updates(tmp_path, updates, sent):
    updates.pause()
    path = tmp_path / "task.updates"
    all_of_them = [status("1"), status("2"), status("3", "TASK_FINISHED")]
    updates.recover("f", "t", path, all_of_them, {"1"})
    assert not updates.update("f", status("2"), path)  # the executor sends it again
    updates.resume()
    assert sent == ["2"]
    updates.acknowledge("f", "t", "2")
    assert updates.acknowledge("f", "t", "3")
    assert path.read_bytes().count(b"ack") == 2
    updates.recover("f", "u", path, [status("5", "TASK_FAILED", "u")], {"5"})
    updates.resume()
    assert sent == ["2", "3"]


# ---- checkpoints


def test_what_is_written_is_read(tmp_path):
    checkpoint.save_agent(tmp_path, "S1", {"hostname": "h"})
    paths = Paths(tmp_path, "S1")
    run = paths.run("f", "e", "c")
    checkpoint.write(paths.framework("f") / "framework.info", {"user": "root"})
    checkpoint.write(paths.executor("f", "e") / "executor.info", {"executor_id": {"value": "e"}})
    checkpoint.write(run / "forked.pid", {"pid": 1, "start": 2, "boot": "b"})
    checkpoint.write(run / "tasks" / "t" / "task.info", {"name": "t"})
    log = run / "tasks" / "t" / "task.updates"
    checkpoint.append(log, {"update": status("1")})
    checkpoint.append(log, {"ack": "1"})
    with log.open("ab") as file:
        file.write(b'{"update": {"torn')
    assert checkpoint.latest_agent(tmp_path) == "S1"
    ((framework_id, executor_id, state),) = checkpoint.runs(paths)
    assert (framework_id, executor_id, state.container_id) == ("f", "e", "c")
    assert state.identity == Identity(1, 2, "b")
    assert state.tasks["t"].updates == [status("1")]
    assert state.tasks["t"].acknowledged == {"1"}
    checkpoint.forget_agent(tmp_path)
    assert checkpoint.latest_agent(tmp_path) is None


def test_a_broken_checkpoint_is_named(tmp_path):
    (tmp_path / "x").write_text("{")
    with pytest.raises(CheckpointError, match=str(tmp_path / "x")):
        checkpoint.read(tmp_path / "x")


def test_compatible_agents():
    old = {"hostname": "h", "resources": Resources.parse("cpus:1;mem:2").to_json()}
    assert compatible(old, {**old, "resources": Resources.parse("mem:2;cpus:1").to_json(), "port": 1}) is None
    assert compatible(old, {**old, "hostname": "i"}) == "--hostname was 'h' and is 'i'"


# ---- registry


async def test_the_registry_writes_many_agents_together(tmp_path):
    registry = Registry.open(tmp_path)
    for number in range(100):
        registry.admit(f"S{number}", {"port": number})
    assert len(Registry.open(tmp_path).admitted) < 100
    registry.mark_gone("S0", 1.0)
    assert len(Registry.open(tmp_path).admitted) == 99, (
        "what is said of an agent is written at once, with all before"
    )
    registry.admit("S100", {"port": 100})
    registry.flush()
    registry.flush()
    assert len(Registry.open(tmp_path).admitted) == 100


def test_the_registry(tmp_path):
    registry = Registry.open(tmp_path)
    registry.admit("S1", {"port": 1})
    registry.admit("S2", {"port": 2})
    registry.mark_unreachable("S1", 5.0)
    registry.mark_gone("S2", 6.0)
    again = Registry.open(tmp_path)
    assert (again.admitted, again.unreachable, again.gone) == ({}, {"S1": 5.0}, {"S2": 6.0})
    again.admit("S1", {"port": 1})
    assert Registry.open(tmp_path).unreachable == {}


def test_a_broken_registry_is_named(tmp_path):
    (tmp_path / "registry.json").write_text("nonsense")
    with pytest.raises(RegistryError, match="remove it to start with no agents"):
        Registry.open(tmp_path)


# ---- reconciliation


def framework(*capabilities):
    info = {"capabilities": [{"type": name} for name in capabilities]}
    return Framework("f", info)


AGENTS = reconcile.Agents({"here"}, {"missing"}, {"lost": 7.0}, {"gone"})


@pytest.mark.parametrize(
    ("agent", "state"),
    [
        ("here", "TASK_GONE"),
        ("missing", None),
        (None, None),
        ("lost", "TASK_UNREACHABLE"),
        ("gone", "TASK_GONE_BY_OPERATOR"),
        ("never", "TASK_UNKNOWN"),
    ],
)
def test_unknown_tasks(agent, state):
    answer = reconcile.explicit(framework("PARTITION_AWARE"), "t", agent, AGENTS, 1.0)
    assert (answer and answer["state"]) == state
    old = reconcile.explicit(framework(), "t", agent, AGENTS, 1.0)
    assert (old and old["state"]) == (state and "TASK_LOST")
    if agent == "lost":
        assert answer["unreachable_time"] == {"nanoseconds": 7_000_000_000}


def test_known_tasks_show_what_the_scheduler_was_told_last():
    known = framework("PARTITION_AWARE")
    task = Task(
        "t", "f", "here", "e", "name", Resources(), state="TASK_FINISHED", status_update_state="TASK_RUNNING"
    )
    task.take({"state": "TASK_RUNNING", "healthy": True, "data": "x"})
    known.tasks["t"] = task
    (answer,) = reconcile.implicit(known, 1.0)
    assert answer == reconcile.explicit(known, "t", None, AGENTS, 1.0)
    assert (answer["state"], answer["healthy"]) == ("TASK_RUNNING", True)
    assert "data" not in answer
    assert "uuid" not in answer


# ---- fetching


def uri(value, **more):
    return {"value": str(value), "extract": True, **more}


def test_archives_of_every_kind(tmp_path):
    source, sandbox = tmp_path / "source", tmp_path / "sandbox"
    source.mkdir()
    sandbox.mkdir()
    (source / "file").write_text("content")
    (source / "file").chmod(0o751)
    for suffix, mode in (("tar", "w"), ("tgz", "w:gz"), ("tar.bz2", "w:bz2"), ("tar.xz", "w:xz")):
        with tarfile.open(source / f"x.{suffix}", mode) as archive:
            archive.add(source / "file", f"from-{suffix}")
    with zipfile.ZipFile(source / "x.zip", "w") as archive:
        archive.write(source / "file", "from-zip")
    with gzip.open(source / "alone.gz", "wb") as file:
        file.write(b"content")
    names = ("x.tar", "x.tgz", "x.tar.bz2", "x.tar.xz", "x.zip", "alone.gz")
    fetch([uri(source / name) for name in names], sandbox)
    for name in ("from-tar", "from-tgz", "from-tar.bz2", "from-tar.xz", "from-zip", "alone"):
        assert (sandbox / name).read_text() == "content"
        if name != "alone":
            assert (sandbox / name).stat().st_mode & 0o777 == 0o751


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (uri("ftp://host/file"), "does not fetch ftp: URIs"),
        (uri("relative/path"), "a path must be absolute"),
        (uri("/etc/hostname", output_file="../../etc/evil"), "is no file name within the sandbox"),
        (uri("/no/such/file"), "No such file or directory"),
    ],
)
def test_uris_that_cannot_be_fetched(tmp_path, item, words):
    with pytest.raises(FetchError, match=words):
        fetch([item], tmp_path)


def test_an_archive_that_leads_out_of_the_sandbox(tmp_path):
    sandbox = tmp_path / "sandbox"
    sandbox.mkdir()
    with tarfile.open(tmp_path / "evil.tar", "w") as archive:
        archive.add(tmp_path, "../outside", recursive=False)
    with pytest.raises(FetchError):
        fetch([uri(tmp_path / "evil.tar")], sandbox)
    assert not (tmp_path / "outside").exists()


# ---- flags


def test_isolation():
    assert subsystems("cgroups/cpu,cgroups/mem") == ("freezer", "cpu", "cpuacct", "memory")
    assert subsystems("posix/cpu, posix/mem") == ("freezer",)
    assert {"pids", "devices"} < set(subsystems("cgroups/all"))
    with pytest.raises(ValueError, match="namespaces/pid: no such isolator here"):
        subsystems("namespaces/pid")


@pytest.mark.parametrize(
    ("parse", "argv", "words"),
    [
        (master_flags, [], "--work_dir"),
        (master_flags, ["--zk", "zk://h/mesos"], "the embedded master has no ZooKeeper"),
        (master_flags, ["--allocation_interval", "1"], "not a duration"),
        (master_flags, ["--port", "70000"], "not a port"),
        (master_flags, ["--roles", "a b"], "contains backspace or whitespace"),
        (agent_flags, ["--master", "zk://h/mesos"], "needs HOST:PORT"),
        (agent_flags, ["--master", "h:1", "--resources", "cpus"], "--resources: bad resource 'cpus'"),
        (agent_flags, ["--master", "h:1", "--attributes", "x"], "--attributes: bad attribute 'x'"),
        (agent_flags, ["--master", "h:1", "--isolation", "docker/runtime"], "no such isolator"),
    ],
)
def test_bad_flags_are_named(tmp_path, capsys, parse, argv, words):
    work_dir = [] if words == "--work_dir" else ["--work_dir", str(tmp_path)]
    with pytest.raises(SystemExit) as caught:
        parse([*argv, *work_dir])
    assert caught.value.code == 2
    assert words in capsys.readouterr().err


def test_missing_resources_are_detected(tmp_path):
    flags = agent_flags(["--master", "h:1", "--work_dir", str(tmp_path), "--resources", "cpus:1.5"])
    assert flags.resources.scalar("cpus") == 1500
    assert flags.resources.names() == {"cpus", "mem", "disk", "ports"}


# ---- the rest


@pytest.mark.parametrize(
    ("header", "allowed"),
    [
        (None, True),
        ("*/*", True),
        ("application/*;q=0.5", True),
        ("text/html, application/json", True),
        ("application/json;q=0", False),
        ("application/x-protobuf", False),
    ],
)
def test_accept_headers(header, allowed):
    assert accepts(header, "application/json") is allowed


def test_processes():
    me = Identity.of(os.getpid())
    assert me is not None
    assert me.alive()
    assert not Identity(me.pid, me.start + 1, me.boot).alive()
    assert Identity.of(2**22 + 1) is None
    assert os.getpid() in session_and_descendants(os.getsid(0))
