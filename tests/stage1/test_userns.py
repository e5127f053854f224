"""User namespaces: root in a pod is nobody on the host, and every file keeps its owner all the same."""

import fcntl
import os
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from executor.pods.launcher import LaunchError
from executor.stage1 import userns

IDS = "cat /proc/self/uid_map /proc/self/gid_map"


def test_a_range_is_held_by_one(tmp_path: Path) -> None:
    directory = str(tmp_path / "ids")
    taken = [userns.take_range(directory) for _ in range(20)]
    assert [one.base for one in taken] == [userns.FIRST + n * userns.SIZE for n in range(20)]
    taken[7].release()
    again = userns.take_range(directory)
    assert again.base == userns.FIRST + 7 * userns.SIZE
    for one in (*taken[:7], *taken[8:], again):
        one.release()


def test_ranges_end_below_two_to_the_31st_and_running_out_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert userns.FIRST + userns.COUNT * userns.SIZE <= 2**31 - userns.SIZE
    monkeypatch.setattr(userns, "COUNT", 2)
    held = [userns.take_range(str(tmp_path)) for _ in range(2)]
    with pytest.raises(OSError, match="all 2 ranges of user ids are in use"):
        userns.take_range(str(tmp_path))
    for one in held:
        one.release()


pytestmark = pytest.mark.root


async def test_root_in_the_pod_is_nobody_outside(runner: Any) -> None:
    running = await runner.pod(
        runner.pods.make(runner.pods.app("/bin/sh", "-c", f"id -u; {IDS}; exec sleep 1000 >&- 2>&-"))
    )
    pid, output = await running.start()
    lines = (await output.text()).splitlines()
    inside, outside, size = map(int, lines[1].split())
    assert (lines[0], inside, size) == ("0", 0, userns.SIZE)
    assert os.stat(f"/proc/{pid}").st_uid == outside >= userns.FIRST


async def test_pods_have_different_ids_and_apps_of_one_the_same(runner: Any) -> None:
    seen = []
    for _ in range(2):
        apps = [
            runner.pods.app("/bin/sh", "-c", f"{IDS}; exec sleep 1000 >&- 2>&-", name=name)
            for name in ("a", "b")
        ]
        running = await runner.pod(runner.pods.make(*apps))
        for name in ("a", "b"):
            _, output = await running.start(name)
            seen.append(await output.text())
    assert seen[0] == seen[1] != seen[2] == seen[3]


async def test_what_the_kernel_limits_for_each_user_is_of_the_pod_s_own(runner: Any) -> None:
    """Inotify instances, keys, queued signals: a namespace's count as its owner's, and the host's root has few."""
    pod = await runner.pod(runner.pods.make(runner.pods.app("/bin/sleep", "1000")))
    pid, _ = await pod.start()
    base = int(Path(f"/proc/{pid}/uid_map").read_text().split()[1])
    owner = bytearray(4)
    namespace = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY)
    fcntl.ioctl(namespace, 0xB704, owner)  # NS_GET_OWNER_UID (ioctl_ns(2))
    os.close(namespace)
    assert int.from_bytes(owner, sys.byteorder) == base


async def test_files_keep_their_owners(runner: Any, tmp_path: Path) -> None:
    host = tmp_path / "host"
    host.mkdir()
    (host / "theirs").write_text("x")
    os.chown(host / "theirs", 1234, 2345)
    volumes = [
        {"name": "host", "kind": "host", "source": str(host)},
        {"name": "disk", "kind": "empty", "uid": 77, "gid": 78},
        {"name": "memory", "kind": "empty", "gantry.io/medium": "Memory", "uid": 5, "gid": 6},
    ]
    mounts = [{"volume": name, "path": f"/{name}"} for name in ("host", "disk", "memory")]
    script = """
    stat -c '%u:%g %n' /host/theirs /disk /memory /etc/hosts /bin/busybox /proc/self/status /dev /dev/pts
    touch /host/mine /disk/mine /memory/mine /mine && chown 1:2 /host/mine /mine && echo made
    """
    running = await runner.pod(
        runner.pods.make(runner.pods.app("/bin/sh", "-c", script, mounts=mounts), volumes=volumes)
    )
    _, output = await running.start()
    lines = (await output.text()).splitlines()
    owners = {name: owner for owner, name in (line.split() for line in lines[:-1])}
    assert owners == {
        "/host/theirs": "1234:2345",
        "/disk": "77:78",
        "/memory": "5:6",
        "/etc/hosts": "0:0",
        "/bin/busybox": "0:0",
        "/proc/self/status": "0:0",
        "/dev": "0:0",
        "/dev/pts": "65534:65534",
    }
    assert lines[-1] == "made"
    # On disk they are what they are in the pod: nothing is shifted, so images and volumes can be shared.
    for path in (host / "mine", running.directory / "overlay/app/upper/mine"):
        assert (path.stat().st_uid, path.stat().st_gid) == (1, 2)
    assert (running.directory / "sharedVolumes/disk/mine").stat().st_uid == 0


async def test_a_sub_path_that_is_made_is_the_pod_s(runner: Any, tmp_path: Path) -> None:
    volumes = [
        {"name": "disk", "kind": "empty"},
        {"name": "memory", "kind": "empty", "gantry.io/medium": "Memory"},
        {"name": "host", "kind": "host", "source": str(tmp_path)},
    ]
    mounts = [{"volume": v["name"], "path": f"/{v['name']}", "gantry.io/sub-path": "a/b"} for v in volumes]
    result = await runner.sh(
        "stat -c %u /disk /memory /host; touch /disk/x /memory/x /host/x && echo made",
        mounts=mounts,
        pod={"volumes": volumes, "user_namespace": "private"},
    )
    assert result.lines == ["0", "0", "0", "made"]


async def test_a_device_is_open_to_whom_its_file_is(runner: Any, tmp_path: Path) -> None:
    for name, mode in (("open", 0o666), ("closed", 0o660)):
        os.mknod(tmp_path / name, stat.S_IFCHR, os.stat("/dev/null").st_rdev)
        (tmp_path / name).chmod(mode)
    volumes = [
        {
            "name": name,
            "kind": "host",
            "source": str(tmp_path / name),
            "recursive": False,
            "gantry.io/device": True,
        }
        for name in ("open", "closed")
    ]
    result = await runner.sh(
        "echo x > /dev/open && echo opened; echo x > /dev/closed",
        user="65534",
        group="65534",
        mounts=[{"volume": name, "path": f"/dev/{name}"} for name in ("open", "closed")],
        pod={"volumes": volumes, "user_namespace": "private"},
    )
    assert result.lines[0] == "opened"
    assert "can't create /dev/closed: Permission denied" in result.output


async def test_root_of_the_pod_rules_its_network_but_not_its_mounts(runner: Any) -> None:
    capabilities = {
        "name": "os/linux/capabilities-retain-set",
        "value": {"set": ["CAP_NET_ADMIN", "CAP_SYS_ADMIN"]},
    }
    result = await runner.sh(
        "ip link add d0 type dummy || ip link set lo down && echo network; mount -t tmpfs x /tmp; umount /proc",
        isolators=[capabilities],
    )
    assert "network" in result.lines
    assert result.output.count("denied") + result.output.count("not permitted") >= 2


async def test_a_low_port(runner: Any) -> None:
    result = await runner.sh(
        "nc -l -p 80 >/dev/null & sleep 0.1; until nc 127.0.0.1 80 </dev/null; do usleep 10000; done; echo ok"
    )
    assert result.lines[-1] == "ok"


@pytest.mark.parametrize(
    "more", [{"user_namespace": "host"}, {"host_network": "true"}], ids=["asked", "network"]
)
async def test_none_where_it_does_not_fit(runner: Any, more: dict[str, str]) -> None:
    assert (await runner.sh(IDS, pod=more)).lines[0].split() == ["0", "0", "4294967295"]


async def test_none_where_a_volume_cannot_be_mapped_unless_it_must_be(runner: Any) -> None:
    pod = {"volumes": [{"name": "v", "kind": "host", "source": "/proc", "recursive": False}]}
    mounts = [{"volume": "v", "path": "/v"}]
    assert (await runner.sh(IDS, pod=pod, mounts=mounts)).lines[0].split() == ["0", "0", "4294967295"]
    with pytest.raises(LaunchError, match=r"^mount volume:/v on /v \(id-mapped\): Invalid argument"):
        await runner.sh(IDS, pod={**pod, "user_namespace": "private"}, mounts=mounts)


@pytest.mark.parametrize(
    ("pod", "message"),
    [
        ({"user_namespace": "mine"}, "'mine' is neither private nor host"),
        (
            {"user_namespace": "private", "host_network": "true"},
            "private needs flavor linux, nothing of the host",
        ),
    ],
)
async def test_what_cannot_be_is_refused(runner: Any, pod: dict[str, Any], message: str) -> None:
    with pytest.raises(LaunchError, match=message):
        await runner.sh("true", pod=pod)


async def test_ranges_come_back(runner: Any) -> None:
    bases = set()
    for _ in range(12):
        bases.add((await runner.sh(IDS)).lines[0].split()[1])
    assert len(bases) <= 6  # the spares' and those of pods that are still being taken down
