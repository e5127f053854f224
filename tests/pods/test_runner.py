"""Pods for real: the runner on the real image store and the real launcher, without Mesos."""

import asyncio
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from executor.pods.core.effects import Report
from executor.pods.gpus import GpuError
from executor.pods.logread import LogOptions, read_log
from executor.pods.objects import Objects
from executor.pods.supplies import Supplies
from executor.stage0 import ImageRefused, inventory

pytestmark = pytest.mark.root

IMAGE = "localhost/busybox:1"
SECONDS = 60.0
Host = Any
"""The machine of conftest."""


def shown(report: Report, app: str = "c0") -> dict[str, Any]:
    status = report.status
    everyone = [*status["containerStatuses"], *status.get("initContainerStatuses", ())]
    found: dict[str, Any] = next(c for c in everyone if c["name"] == app)
    return found


def waits(reason: str, app: str = "c0") -> Callable[[Report], bool]:
    return lambda r: bool(shown(r, app)["state"].get("waiting", {}).get("reason") == reason)


def runs(report: Report) -> bool:
    return report.state == "TASK_RUNNING"


async def test_a_job_succeeds_and_its_log_can_be_read(host: Host) -> None:
    task = host.run({"run": "echo hello; echo oops >&2; echo $MESSAGE > /dev/termination-log", "env": [
        {"name": "MESSAGE", "value": "all done"}]})  # fmt: skip
    report = await host.end(task)
    assert report.state == "TASK_FINISHED", report
    assert [r.state for r in host.reports[task] if r.state != "TASK_STARTING"] == [
        "TASK_RUNNING",
        "TASK_FINISHED",
    ]
    ended = shown(report)["state"]["terminated"]
    assert (ended["exitCode"], ended["reason"], ended["message"]) == (0, "Completed", "all done\n")
    assert shown(report)["imageID"].startswith("sha256:")
    assert sorted((await host.log("p")).splitlines()) == ["hello", "oops"]


async def test_a_job_fails_with_its_exit_code(host: Host) -> None:
    task = host.run({"run": "echo why >&2; exit 7", "terminationMessagePolicy": "FallbackToLogsOnError"})
    report = await host.end(task)
    assert report.state == "TASK_FAILED"
    assert report.status["phase"] == "Failed"
    assert shown(report)["state"]["terminated"] | {"startedAt": "", "finishedAt": ""} == {
        "exitCode": 7,
        "reason": "Error",
        "message": "why\n",
        "startedAt": "",
        "finishedAt": "",
        "containerID": f"gantry://{task.removesuffix('.1')}/c0/0",
    }


async def test_two_containers_talk_over_localhost(host: Host) -> None:
    task = host.run(
        {"run": "echo from c0 > /tmp/index.html; exec httpd -f -p 127.0.0.1:8000 -h /tmp"},
        {"run": "until wget -q -O - http://127.0.0.1:8000/; do sleep 0.05; done"},
    )
    report = await host.until(task, lambda r: "terminated" in shown(r, "c1")["state"])
    assert shown(report, "c1")["state"]["terminated"]["exitCode"] == 0
    log = await host.log("p", "c1")
    assert log.splitlines()[-1] == "from c0"


async def test_what_a_container_knows(host: Host) -> None:
    run = "hostname; echo $UID_ $LABEL $CPU; id -u; id -G; pwd; cat /proc/self/status | grep -E 'CapBnd|NoNewPrivs'"
    env = [
        {"name": "UID_", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}},
        {"name": "LABEL", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
        {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}}},
    ]
    context = {
        "runAsUser": 1000,
        "runAsGroup": 2000,
        "capabilities": {"drop": ["ALL"], "add": ["CHOWN"]},
        "allowPrivilegeEscalation": False,
    }
    task = host.run(
        {"run": run, "env": env, "securityContext": context, "workingDir": "/tmp"},
        securityContext={"supplementalGroups": [3000]},
    )
    assert (await host.end(task)).state == "TASK_FINISHED"
    lines = (await host.log("p")).splitlines()
    assert lines == [
        "p",
        f"{task.removesuffix('.1')} test 4000",
        "1000",
        "2000 3000",
        "/tmp",
        "CapBnd:\t0000000000000001",
        "NoNewPrivs:\t1",
    ]


async def test_volumes(host: Host, tmp_path: Path) -> None:
    source = tmp_path / "source"
    mounts = [
        {"name": "disk", "mountPath": "/disk"},
        {"name": "ram", "mountPath": "/ram", "subPath": "below"},
        {"name": "host", "mountPath": "/host"},
    ]
    task = host.run(
        {"run": "cat /disk/a /ram/b; df -P /ram | tail -1 | cut -d' ' -f1; touch /ro/x 2>/dev/null; echo $?",
         "volumeMounts": [*mounts, {"name": "host", "mountPath": "/ro", "readOnly": True}]},
        init=[{"run": "echo on disk > /disk/a; echo in memory > /ram/b; echo on host > /host/c",
               "volumeMounts": mounts}],
        volumes=[
            {"name": "disk", "emptyDir": {}},
            {"name": "ram", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
            {"name": "host", "hostPath": {"path": str(source), "type": "DirectoryOrCreate"}},
        ],
    )  # fmt: skip
    assert (await host.end(task)).state == "TASK_FINISHED"
    log = await host.log("p")
    assert "on disk\nin memory\n" in log
    assert log.splitlines()[-1] == "1"
    assert (source / "c").read_text() == "on host\n"


async def test_a_host_path_of_the_wrong_type_holds_the_pod(host: Host, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    volume = {"name": "v", "hostPath": {"path": str(tmp_path / "file"), "type": "Directory"}}
    task = host.run({"run": "true"}, volumes=[volume])
    report = await host.until(task, lambda r: any(e.reason == "FailedMount" for e in r.events))
    assert report.state == "TASK_STARTING"
    assert "is not a directory" in next(e.message for e in report.events if e.reason == "FailedMount")
    (tmp_path / "file").unlink()
    (tmp_path / "file").mkdir()
    assert (await host.end(task)).state == "TASK_FINISHED"


async def test_init_containers_come_first(host: Host) -> None:
    volumes = [{"name": "v", "emptyDir": {}}]
    mounts = {"volumeMounts": [{"name": "v", "mountPath": "/v"}]}
    task = host.run(
        {"run": "cat /v/order", **mounts},
        init=[{"run": "echo one >> /v/order", **mounts}, {"run": "echo two >> /v/order", **mounts}],
        volumes=volumes,
    )
    assert (await host.end(task)).state == "TASK_FINISHED"
    assert await host.log("p") == "one\ntwo\n"


async def test_crash_loop_and_the_log_of_the_instance_before(host: Host) -> None:
    task = host.run({"run": "echo crash; touch /mark 2>&1; ls /mark2; exit 1"}, restartPolicy="Always")
    report = await host.until(task, waits("CrashLoopBackOff"))
    assert report.state == "TASK_RUNNING"
    assert shown(report)["restartCount"] == 1
    assert shown(report)["lastState"]["terminated"]["exitCode"] == 1
    assert (await host.log("p")).startswith("crash\n")
    assert (await host.log("p", previous=True)).startswith("crash\n")
    assert host.pods.kill(task, None, "deleted")
    assert (await host.end(task)).state == "TASK_KILLED"


async def test_every_instance_begins_with_the_images_files(
    host: Host, held: Callable[[], list[Path]]
) -> None:
    run = "test -e /mark && exit 0; touch /mark; exit 1"
    task = host.run({"run": run}, restartPolicy="OnFailure")
    report = await host.until(task, waits("CrashLoopBackOff"))
    assert shown(report)["restartCount"] == 1
    assert len(held()) == 1  # the image is held once, not once an instance


async def test_a_missing_image(host: Host) -> None:
    task = host.run({"image": "localhost/nope:1"})
    report = await host.until(task, waits("ErrImagePull"))
    assert report.state == "TASK_STARTING"
    assert "localhost/nope:1" in shown(report)["state"]["waiting"]["message"]
    report = await host.until(task, waits("ImagePullBackOff"))
    assert any(e.reason == "BackOff" for r in host.reports[task] for e in r.events)
    with pytest.raises(LookupError, match='container "c0" in pod "p" is waiting to start: ImagePullBackOff'):
        await host.log("p")


async def test_a_name_that_is_no_image(host: Host) -> None:
    task = host.run({"image": "UPPER CASE"})
    await host.until(task, waits("InvalidImageName"))


async def test_a_program_that_is_not_there(host: Host) -> None:
    task = host.run({"command": ["/bin/nope"]})
    report = await host.end(task)
    ended = shown(report)["state"]["terminated"]
    assert (report.state, ended["exitCode"], ended["reason"]) == ("TASK_FAILED", 128, "StartError")
    assert "/bin/nope" in ended["message"]


async def test_a_graceful_end(host: Host) -> None:
    task = host.run({"run": "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.02; done"})
    await host.until(task, runs)
    path, writer = host.pods.log_of("default", "p", "c0", previous=False)
    follow = read_log(path, LogOptions(follow=True), writer)
    async with asyncio.timeout(SECONDS):
        assert await anext(follow) == b"up\n"
        host.pods.kill(task, 10.0, "deleted")
        assert [block async for block in follow] == [b"bye\n"]
    report = await host.end(task)
    assert report.state == "TASK_KILLED"
    assert shown(report)["state"]["terminated"]["exitCode"] == 3


async def test_an_end_by_force(host: Host) -> None:
    task = host.run({"run": "trap '' TERM; echo up; while :; do sleep 0.02; done"})
    await host.until(task, runs)
    host.pods.kill(task, 0.1, "deleted")
    report = await host.end(task)
    assert report.state == "TASK_KILLED"
    assert shown(report)["state"]["terminated"]["exitCode"] == 137


async def test_the_image_of_a_running_pod_is_not_removed(
    host: Host, image_state: Path, held: Callable[[], list[Path]]
) -> None:
    task = host.run({"run": "echo up; while :; do sleep 0.02; done", "image": "localhost/busybox:usr1"})
    await host.until(task, runs)
    assert len(held()) == 1
    with pytest.raises(ImageRefused, match="is in use"):
        inventory.remove(image_state, "localhost/busybox:usr1")
    host.pods.kill(task, 0.0, "deleted")
    await host.end(task)
    assert held() == []


async def test_the_images_stop_signal_is_sent(host: Host) -> None:
    task = host.run(
        {
            "run": "trap 'exit 5' USR1; echo up; while :; do sleep 0.02; done",
            "image": "localhost/busybox:usr1",
        }
    )
    await host.until(task, runs)
    path, writer = host.pods.log_of("default", "p", "c0", previous=False)
    async with asyncio.timeout(SECONDS):
        assert await anext(read_log(path, LogOptions(follow=True), writer)) == b"up\n"
    host.pods.kill(task, 10.0, "deleted")
    assert shown(await host.end(task))["state"]["terminated"]["exitCode"] == 5


async def test_out_of_memory(host: Host) -> None:
    run = "exec dd if=/dev/zero of=/dev/null bs=200M count=1"
    task = host.run({"run": run, "resources": {"limits": {"memory": "32Mi"}}})
    report = await host.end(task)
    ended = shown(report)["state"]["terminated"]
    assert (ended["reason"], ended["exitCode"]) == ("OOMKilled", 137)
    assert report.state == "TASK_FAILED"


async def test_the_deadline(host: Host) -> None:
    task = host.run(
        {"run": "while :; do sleep 0.02; done"}, activeDeadlineSeconds=1, terminationGracePeriodSeconds=0
    )
    report = await host.end(task)
    assert (report.state, report.status["reason"]) == ("TASK_FAILED", "DeadlineExceeded")


async def test_flavor_fly(host: Host) -> None:
    task = host.run(
        {"run": "readlink /proc/self/ns/net; readlink /proc/self/ns/pid; exit 4"}, runtimeClassName="fly"
    )
    report = await host.end(task)
    assert shown(report)["state"]["terminated"]["exitCode"] == 4
    assert (await host.log("p")).splitlines() == [
        os.readlink("/proc/self/ns/net"),
        os.readlink("/proc/self/ns/pid"),
    ]


OBJECTS = Objects.from_json(
    {
        "configMaps": {"config": {"data": {"level": "debug", "motd": "hello"}}},
        "secrets": {"login": {"data": {"user": "bWU=", "key": "aHVudGVyMg=="}}},
    }
)
OBJECTS_SCRIPT = """
echo $LEVEL $S_user; cat /config/level; echo; cat /login/deep/key; echo; cat /single; echo
ls -lL /login/deep/key | cut -c1-10; ls -ln /login/..data/deep/key | tr -s ' ' | cut -d' ' -f3-4
readlink /config/level; (echo x > /config/level) 2>/dev/null || echo read-only
cat /about/labels; echo; grep ' /login ' /proc/mounts | cut -d' ' -f3
"""


@pytest.mark.parametrize("flavor", ["linux", "fly"])
async def test_objects_become_variables_and_files(host: Host, flavor: str) -> None:
    volumes = [
        {"name": "config", "configMap": {"name": "config"}},
        {"name": "login", "secret": {"secretName": "login", "items": [
            {"key": "key", "path": "deep/key", "mode": 0o400}
        ]}},
        {"name": "about", "projected": {"sources": [{"downwardAPI": {"items": [
            {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}
        ]}}]}},
    ]  # fmt: skip
    mounts = [{"name": one["name"], "mountPath": f"/{one['name']}"} for one in volumes]
    mounts.append({"name": "config", "mountPath": "/single", "subPath": "motd"})
    env = {
        "env": [{"name": "LEVEL", "valueFrom": {"configMapKeyRef": {"name": "config", "key": "level"}}}],
        "envFrom": [{"prefix": "S_", "secretRef": {"name": "login"}}],
    }
    task = host.run(
        {"run": OBJECTS_SCRIPT, "volumeMounts": mounts, **env},
        *({"run": "cat /login/deep/key", "volumeMounts": mounts, "securityContext": {"runAsUser": 7}},),
        volumes=volumes,
        runtimeClassName=flavor,
        supplies=Supplies(objects=OBJECTS),
    )
    report = await host.end(task)
    assert (await host.log("p", "c0")).splitlines() == [
        *("debug me", "debug", "hunter2", "hello", "-r--------", "0 0", "..data/level", "read-only"),
        *('app="test"', "tmpfs"),
    ]
    assert shown(report, "c1")["state"]["terminated"]["exitCode"] != 0, "it is root's alone"
    found = [
        name for _, _, names in os.walk(host.dirs.root) for name in names
    ]  # what is being removed may vanish
    assert "key" not in found, "a secret is on no disk"


async def test_files_follow_their_objects(host: Host) -> None:
    volume = {"name": "v", "configMap": {"name": "config"}}
    script = "while ! grep -q info /v/level; do cat /v/level; echo; sleep 0.02; done; echo done; ls /v"
    mounts = [{"name": "v", "mountPath": "/v"}]
    supplies = Supplies(objects=OBJECTS, digest="1")
    task = host.run({"run": script, "volumeMounts": mounts}, volumes=[volume], supplies=supplies)
    await host.until(task, runs)
    async with asyncio.timeout(SECONDS):
        assert await host.wanted.get() == (task, "1")
        assert "debug" in await host.log("p", follow=True, tail=None, limit=5)
    host.pods.provide(task, Objects(), "2")  # deleted: what was there stays
    changed = Objects.from_json({"configMaps": {"config": {"data": {"level": "info", "new": ""}}}})
    host.pods.provide(task, changed, "3")
    assert (await host.end(task)).state == "TASK_FINISHED"
    lines = (await host.log("p")).splitlines()
    assert lines[-3:] == ["done", "level", "new"]
    assert lines[0] == "debug"


async def test_objects_that_are_not_there_are_waited_for(host: Host) -> None:
    volume = {"name": "v", "secret": {"secretName": "no"}}
    task = host.run({"run": "true"}, volumes=[volume])
    report = await host.until(task, lambda r: any(e.reason == "FailedMount" for e in r.events))
    [event] = [e for e in report.events if e.reason == "FailedMount"]
    assert event.message == 'MountVolume.SetUp failed for volume "v" : secret "no" not found'
    host.pods.kill(task, 0.0, "enough")
    env = [{"name": "V", "valueFrom": {"configMapKeyRef": {"name": "no", "key": "x"}}}]
    other = host.run({"run": "true", "env": env}, name="other")
    report = await host.until(other, waits("CreateContainerConfigError"))
    assert shown(report)["state"]["waiting"]["message"] == 'configmap "no" not found'
    host.pods.kill(other, 0.0, "enough")
    await host.end(other)


GPU_SCRIPT = """
for file in /dev/nvidia*; do test -c $file && echo $file $(ls -lL $file | tr -s ' ' | cut -d' ' -f5-6); done
echo $NVIDIA_VISIBLE_DEVICES
head -c 4 /dev/nvidia1 2>/dev/null | od -An -tx1 | tr -d ' '
"""


@pytest.mark.parametrize("privileged", [False, True])
async def test_gpus_are_the_apps_own(host: Host, privileged: bool) -> None:
    for name, minor in {"nvidia0": 3, "nvidia1": 5, "nvidiactl": 3, "nvidia-uvm": 7}.items():
        os.mknod(host.devices / name, stat.S_IFCHR | 0o666, os.makedev(1, minor))
        os.chmod(host.devices / name, 0o666)
    asks = {"resources": {"limits": {"nvidia.com/gpu": "1"}}}
    script = {"run": GPU_SCRIPT, "securityContext": {"privileged": privileged, "runAsUser": 65534}}
    other = {**script, "securityContext": {"runAsUser": 65534}}
    task = host.run({**other, **asks}, {**script, **asks}, {**other, "env": []}, init=[{**other, **asks}])
    assert (await host.end(task)).state == "TASK_FINISHED"
    control = ["/dev/nvidia-uvm 1, 7", "/dev/nvidiactl 1, 3"]
    assert sorted((await host.log("p", "c0")).splitlines()) == sorted([*control, "/dev/nvidia0 1, 3", "0"])
    zeroes = ["00000000"]  # it can be read, too: it is /dev/zero
    second = [*control, "/dev/nvidia1 1, 5", "1", *zeroes]
    assert sorted((await host.log("p", "c1")).splitlines()) == sorted(second)
    assert (await host.log("p", "c2")).splitlines() == [""]
    assert "0" in (await host.log("p", "i0")).splitlines()
    with pytest.raises(GpuError, match="Requested: 3, Available: 2"):
        host.run({"run": "true", "resources": {"limits": {"nvidia.com/gpu": "3"}}})
    task = host.run({"run": "echo $NVIDIA_VISIBLE_DEVICES", "resources": {"limits": {"nvidia.com/gpu": "2"}}})
    assert (await host.end(task)).state == "TASK_FINISHED"
    assert await host.log("p") == "0,1\n"


async def test_an_image_that_comes_late(host: Host, late_image: Callable[[], None]) -> None:
    task = host.run({"run": "echo c0"}, {"image": "localhost/late:1", "run": "echo here"})
    report = await host.until(task, waits("ErrImagePull", "c1"))
    assert report.status["phase"] == "Pending"
    late_image()
    assert (await host.end(task)).state == "TASK_FINISHED"


async def test_the_launchers_death_fails_all_pods_and_the_next_one_runs(host: Host) -> None:
    task = host.run({"run": "while :; do sleep 0.02; done"}, restartPolicy="Always")
    await host.until(task, runs)
    assert host.keeper.pid is not None
    os.kill(host.keeper.pid, 9)
    report = await host.end(task)
    assert (report.state, report.message) == ("TASK_FAILED", "the launcher has ended")
    again = host.run({"run": "true"}, name="again")
    assert (await host.end(again)).state == "TASK_FINISHED"


async def test_only_so_many_dead_pods_are_kept(make_host: Callable[..., Host]) -> None:
    host = make_host(keep_dead=2)
    try:
        for name in ("one", "two", "three"):
            assert (await host.end(host.run({"run": f"echo {name}"}, name=name))).state == "TASK_FINISHED"
        assert await host.log("three") == "three\n"
        with pytest.raises(KeyError):
            await host.log("one")
    finally:
        await host.close()


@pytest.fixture
def late_image(build_image: Callable[[str], None]) -> Callable[[], None]:
    """Makes localhost/late:1 when called."""
    return lambda: build_image("late")
