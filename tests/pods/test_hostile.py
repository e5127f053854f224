"""Images and apps that mean harm, through the whole executor: an error or an end for them, nothing for neighbours."""

import asyncio
import os
import shutil
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from executor.pods.core.effects import Report
from executor.pods.launcher import LaunchError
from executor.pods.poddir import Phase
from executor.pods.rules import Rules
from executor.stage0.build import Options, build_oci
from tests.ground import mounts

pytestmark = [pytest.mark.root]

MACHINE = ("kernel/core_pattern", "kernel/hostname", "kernel/panic", "kernel/sysrq", "vm/overcommit_memory")


def machine(own: Path) -> list[str]:
    """What an attack would leave."""
    files = [Path(f"/proc/sys/{name}") for name in MACHINE]
    return [*mounts(own), *(f.read_text() for f in files if f.exists())]


@pytest.fixture
async def host(make_host: Any, request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    """With a limit of processes, as executors have one."""
    made = make_host(rules=Rules(max_pids=getattr(request, "param", 4096)))
    made.keeper.start()
    try:
        yield made
    finally:
        await made.close()
        assert not [path for phase in Phase for path in (made.dirs.root / phase).iterdir()]


@pytest.fixture
async def neighbour(host: Any) -> AsyncIterator[None]:
    """A pod that was there before, must answer afterwards, and may not be restarted. The machine stays as it was."""
    task = host.run({"run": "trap 'exit 0' TERM; while :; do sleep 0.1; done"}, name="neighbour")
    await host.until(task, lambda r: r.status["phase"] == "Running")
    before = machine(host.dirs.root)
    yield
    assert machine(host.dirs.root) == before
    found = host.pods.find("default", "neighbour")
    null = os.open(os.devnull, os.O_RDWR)
    made = await found.sandbox.exec("c0", ["/bin/sh", "-c", "exit 7"], streams=(null, null))
    os.close(null)
    async with asyncio.timeout(60):
        assert await made.ended == (7, None)
    (status,) = found.state.reported["containerStatuses"]
    assert (status["restartCount"], "running" in status["state"]) == (0, True)


@pytest.fixture
def hostile(rootfs: Path, local_images: Path, tmp_path: Path) -> Callable[..., str]:
    """`hostile(change, user="x")`: a reference of busybox' image after `change(root)`, with other options."""

    def build(change: Callable[[Path], object], **options: Any) -> str:
        name = f"hostile-{uuid.uuid4().hex[:8]}"
        root = tmp_path / name
        shutil.copytree(rootfs, root, symlinks=True)
        change(root)
        options = {"env": ("PATH=/bin",), "compression": "none", **options}
        build_oci(root, local_images / name, "1", Options(**options))
        return f"localhost/{name}:1"

    return build


def terminated(report: Report, number: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = report.status["containerStatuses"][number]["state"]["terminated"]
    return found


def waiting(reason: str) -> Callable[[Report], bool]:
    def test(report: Report) -> bool:
        states = [one["state"] for one in report.status["containerStatuses"]]
        return any(state.get("waiting", {}).get("reason") == reason for state in states)

    return test


# --- what it writes


@pytest.mark.parametrize(
    "output", ["yes", "cat /dev/zero | tr '\\0' x", "cat /dev/zero", "cat /bin/busybox /bin/busybox"]
)
async def test_a_flood_of_output(host: Any, neighbour: None, output: str) -> None:
    """It is cut into lines and files of a bounded size, and ends with the app."""
    task = host.run({"run": f"({output}) 2>&1 | head -c 30000000; echo; echo the end; exit 3"})
    assert terminated(await host.end(task))["exitCode"] == 3
    assert (await host.log("p", tail=1)) == "the end\n"
    runner = host.pods.find("default", "p")
    path, _ = runner.log_of("c0", previous=False)
    assert max(map(len, path.read_bytes().splitlines())) < 17 << 10
    assert all(file.stat().st_size <= 11 << 20 for file in path.parent.iterdir())


async def test_output_without_end(host: Any, neighbour: None) -> None:
    """Others are served meanwhile."""
    task = host.run(*[{"run": "exec cat /dev/zero"}] * 4)
    await host.until(task, lambda r: r.status["phase"] == "Running")
    other = host.run({"run": "echo here"}, name="other")
    assert (await host.end(other)).status["phase"] == "Succeeded"
    assert await host.log("other") == "here\n"
    host.pods.kill(task, 0.0, "enough")
    await host.end(task)


GAMES = (
    "exec >&- 2>&- <&-; sleep 0.2",
    "(sleep 0.1; echo late) & exec >&- 2>&-",
    "setsid sh -c 'sleep 1000' & true",
    "cat <&1 & sleep 0.1; cat /proc/self/fd/1 & sleep 0.1; kill %1 %2",
    "dd if=/dev/zero of=/proc/self/fd/1 bs=1 count=10 seek=5; for i in 1 2 3; do echo x > /dev/stdout; done",
    "exec 1<>/dev/null; exec 2>&1; ln -sf /dev/null /dev/stdout",
)


async def test_games_with_standard_streams(host: Any, neighbour: None) -> None:
    report = await host.end(host.run(*[{"run": f"{game}; exit 5"} for game in GAMES]))
    assert [terminated(report, number)["exitCode"] for number in range(len(GAMES))] == [5] * len(GAMES)
    for number in range(len(GAMES)):
        await host.log("p", f"c{number}")


LAST_WORDS = (
    ("cat /dev/zero | tr '\\0' x | head -c 3000000 > $L; echo -n last >> $L", "x" * 4092 + "last"),
    ("rm $L; ln -sf /etc/passwd $L; mkfifo $L; mv $L /tmp/l; ln /etc/passwd $L", ""),
    ("printf '\\377\\376\\0ab' > $L", "\ufffd\ufffd\0ab"),
    ("dd if=/dev/zero of=$L bs=1 seek=1000000000000 count=1 2>/dev/null", "\0" * 4096),
)


async def test_last_words(host: Any, neighbour: None) -> None:
    scripts = [f"L=/dev/termination-log; {script} 2>/dev/null; exit 4" for script, _ in LAST_WORDS]
    report = await host.end(host.run(*[{"run": script} for script in scripts]))
    for number, (_, message) in enumerate(LAST_WORDS):
        ended = terminated(report, number)
        assert (ended["exitCode"], ended.get("message", "")) == (4, message)


# --- what the image has


def write(name: str, data: bytes) -> Callable[[Path], object]:
    return lambda root: (root / "etc" / name).write_bytes(data)


def nothing(_: Path) -> None:
    pass


PASSWD = b"root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/:/bin/sh\n"


USERS: tuple[tuple[Callable[[Path], object], str, str], ...] = (
    (write("passwd", b"x:" * 3_000_000 + b"\n" + PASSWD), "app", ""),
    (write("passwd", b"x:y:1:1::/:\n" * 500_000 + PASSWD), "app", ""),
    (write("passwd", b"\0\0:\0:0:0\n\377\376:\377:1:1:\n" + PASSWD), "app", "1000 1000"),
    (write("passwd", b"app:x:99999999999999999999:1::/:\n"), "app", ""),
    (write("passwd", b"app:x:4294967295:4294967295::/:\n"), "app", ""),
    (write("passwd", "app:x:\u00b2:\u0663::/:\n".encode()), "app", ""),
    (write("passwd", b"app:x:-1:-1::/:\n"), "app", ""),
    (lambda root: (root / "etc/passwd").symlink_to("passwd"), "app", ""),
    (lambda root: (root / "etc/passwd").symlink_to("/proc/self/environ"), "app", ""),
    (lambda root: (root / "etc/passwd").mkdir(), "app", ""),
    (lambda root: os.mkfifo(root / "etc/passwd"), "app", ""),
    (lambda root: os.mkfifo(root / "etc/group"), "0:wheel", ""),
    (lambda root: os.mkfifo(root / "etc/passwd"), "7", "7 0"),
    (write("group", b"".join(b"g%d:x:%d:app\n" % (n, n) for n in range(70_000))), "7", "7 0"),
    (nothing, "99999999999999999999", ""),
    (nothing, "4294967295", ""),
    (nothing, "4294967296:0", ""),
    (nothing, "\u00b2", ""),
    (nothing, "-1", ""),
    (nothing, "/../../../../../etc/shadow", ""),
    (nothing, "0:0:0", ""),
    (nothing, "a" * 100_000, ""),
)


async def test_users_of_an_image(host: Any, neighbour: None, hostile: Any) -> None:
    """The ids, "" for a pod that waits for an image that it can run."""
    show = "grep -E '^[UG]id:' /proc/self/status"
    tasks = [
        host.run({"run": show, "image": hostile(change, user=user)}, name=f"p{number}")
        for number, (change, user, _) in enumerate(USERS)
    ]
    for number, (task, (_, user, ids)) in enumerate(zip(tasks, USERS, strict=True)):
        report = await host.until(task, lambda r: r.terminal or waiting("CreateContainerConfigError")(r))
        assert report.terminal == bool(ids), (number, user, report.status)
        if ids:
            seen = [line.split()[1] for line in (await host.log(f"p{number}")).splitlines()]
            assert seen == ids.split(), (number, user)


def loop(root: Path) -> None:
    (root / "bin/loop").write_text("#!/bin/loop\n")
    (root / "bin/loop").chmod(0o755)
    (root / "bin/one").write_text("#!/bin/two\n")
    (root / "bin/two").write_text("#!/bin/one\n")
    (root / "bin/crlf").write_text("#!/bin/sh\r\necho\r\n")
    (root / "bin/long").write_text(f"#!/{'x' * 5000}\n")
    (root / "bin/empty").touch()
    (root / "bin/elf").write_bytes(b"\x7fELF" + bytes(60))
    with (root / "bin/large").open("wb") as file:
        file.write(b"\x7fELF\2\1\1" + bytes(57))
        file.truncate(64 << 20)
    for name in ("one", "two", "crlf", "long", "empty", "elf", "large"):
        (root / "bin" / name).chmod(0o755)
    (root / "bin/self").symlink_to("self")
    (root / "bin/exe").symlink_to("/proc/self/exe")
    (root / "bin/init").symlink_to("/proc/1/exe")
    os.mkfifo(root / "bin/fifo", 0o755)
    (root / "bin/fifo").chmod(0o755)


async def test_programs_that_are_none(host: Any, neighbour: None, hostile: Any) -> None:
    """Each is a StartError that says why, soon; nothing waits for a fifo's other end."""
    image = hostile(loop)
    names = ["loop", "one", "crlf", "long", "empty", "elf", "large", "self", "exe", "init", "fifo"]
    names += ["/proc/self/exe", "/proc/1/exe", "/proc/self/fd/0", "/dev/stdin", "/bin", "/", "", "."]
    containers = [{"command": [name], "image": image} for name in names]
    report = await host.end(host.run(*containers))
    for name, status in zip(names, report.status["containerStatuses"], strict=True):
        ended = status["state"]["terminated"]
        assert (name, ended["reason"], ended["exitCode"]) == (name, "StartError", 128)
        assert f"exec {name}: " in ended["message"]


LINKS = {
    "data": "/../../../..{}",
    "etc/hosts": "/../../../..{}/file",
    "dev": "/bin",
    "proc": "{}",
    "sys": "sys",
}


async def test_places_for_mounts_that_are_links(
    host: Any, neighbour: None, hostile: Any, tmp_path: Path
) -> None:
    """They lead to another place in the image, or to an error; never out."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("of the host")

    def link(name: str) -> Callable[[Path], None]:
        return lambda root: (root / name).symlink_to(LINKS[name].format(outside))

    mounts = [{"name": "v", "mountPath": "/data"}, {"name": "v", "mountPath": "/etc/hosts/../../data/below"}]
    for name in LINKS:
        container = {
            "run": "touch /data/x; echo > /etc/hosts",
            "image": hostile(link(name)),
            "volumeMounts": mounts,
        }
        report = await host.end(
            host.run(container, name=name.replace("/", "-"), volumes=[{"name": "v", "emptyDir": {}}])
        )
        ended = terminated(report)
        if name in ("dev", "proc", "sys"):
            assert "Too many levels of symbolic links" in ended["message"]
        else:
            assert ended["exitCode"] in (0, 128), ended
    assert [(path.name, path.read_text()) for path in outside.iterdir()] == [("file", "of the host")]


# --- what it asks for


async def test_arguments_and_variables_without_measure(host: Any, neighbour: None) -> None:
    many = [{"name": f"V{number}", "value": "x" * 100} for number in range(5000)]
    cases = [
        {"command": ["/bin/sh", "-c", "exit 3", "x" * 200_000]},
        {"command": ["/bin/sh", "-c", "exit 3", *["x" * 100_000] * 30]},
        {"command": ["/bin/sh", "-c", "exit 3", *["x"] * 50_000]},
        {"run": "env | grep -c ^V", "env": many},
        {"run": "exit 3", "env": [{"name": "V", "value": "x" * 200_000}]},
        {"run": "exit 3", "env": [{"name": "V" * 1000, "value": "="}]},
    ]
    report = await host.end(host.run(*cases))
    said = [terminated(report, number) for number in range(len(cases))]
    codes = [one["exitCode"] for one in said]
    assert codes == [128, 128, 3, 0, 128, 3]
    assert all("Argument list too long" in one["message"] for one in said if one["exitCode"] == 128)
    assert await host.log("p", "c3") == "5000\n"


async def test_a_thousand_mounts_of_a_pod_s_own(host: Any, neighbour: None) -> None:
    mounts = [{"name": "v", "mountPath": f"/m/{n}", "subPath": f"{n}"} for n in range(1000)]
    volumes = [{"name": "v", "emptyDir": {}}]
    task = host.run({"run": "ls /m | grep -c .; touch /m/999/x", "volumeMounts": mounts}, volumes=volumes)
    assert (await host.end(task)).status["phase"] == "Succeeded"
    assert await host.log("p") == "1000\n"


async def test_names_as_long_as_they_may_be(host: Any, neighbour: None) -> None:
    volumes = [{"name": "v" * 63, "emptyDir": {"medium": "Memory"}}]
    mounts = [{"name": "v" * 63, "mountPath": "/" + "/".join(["d" * 255] * 15)}]
    task = host.run({"run": "df | grep -c ddd", "volumeMounts": mounts}, volumes=volumes, name="p" * 200)
    assert (await host.end(task)).status["phase"] == "Succeeded"
    assert await host.log("p" * 200) == "1\n"


async def test_a_hundred_containers(host: Any, neighbour: None) -> None:
    task = host.run(*[{"run": "trap 'exit 4' TERM; sleep 1000 & wait"}] * 100)
    await host.until(
        task,
        lambda r: (
            r.status["phase"] == "Running"
            and all("running" in c["state"] for c in r.status["containerStatuses"])
        ),
    )
    host.pods.kill(task, 20.0, "enough")
    report = await host.end(task)
    codes = {terminated(report, number)["exitCode"] for number in range(100)}
    assert codes <= {4, 143}


async def test_thousands_of_zombies(host: Any, neighbour: None) -> None:
    """Of a main process that does not wait for its children; and of init, that does."""
    script = "i=0; while [ $i -lt 1500 ]; do (exit 0) & i=$((i+1)); done; exec sleep 0.5"
    orphans = "i=0; while [ $i -lt 1500 ]; do ( (exit 0) & ); i=$((i+1)); done; exit 6"
    report = await host.end(host.run({"run": script}, {"run": orphans}))
    assert [terminated(report, number)["exitCode"] for number in (0, 1)] == [0, 6]


# --- what it does


@pytest.mark.parametrize("host", [100], indirect=True)
@pytest.mark.parametrize("flavor", ["linux", "fly"])
async def test_bombs(host: Any, neighbour: None, flavor: str) -> None:
    """Of processes and of memory; others start meanwhile, and they end when they are told to."""
    limit = {"limits": {"memory": "32Mi"}}
    forks = "f() { f & f & }; f 2>/dev/null; while :; do f 2>/dev/null; done"
    mounts = [{"name": "v", "mountPath": "/v"}]
    # The one of memory first: what a bomb of processes leaves of the pod's pids need not be enough to start another.
    task = host.run(
        {"run": "echo > /v/go; exec tail /dev/zero", "resources": limit, "volumeMounts": mounts},
        {"run": f"until test -e /v/go; do sleep 0.01; done; {forks}", "volumeMounts": mounts},
        runtimeClassName=flavor,
        volumes=[{"name": "v", "emptyDir": {}}],
    )
    report = await host.until(task, lambda r: "terminated" in r.status["containerStatuses"][0]["state"])
    assert (terminated(report)["reason"], terminated(report)["exitCode"]) == ("OOMKilled", 137), report.status
    other = host.run({"run": "echo here"}, name="other")
    assert (await host.end(other)).status["phase"] == "Succeeded"
    host.pods.kill(task, 0.0, "enough")
    code = terminated(await host.end(task), 1)["exitCode"]
    assert code in (137, 143, 2)  # 2: the shell itself could not fork


async def test_directories_in_one_another(host: Any, neighbour: None) -> None:
    """More than may be stepped into one after the other; `host` looks whether they go with the pod."""
    dig = "i=0; while [ $i -lt 1900 ]; do mkdir d && cd d || exit 9; i=$((i+1)); done"
    mounts = [{"name": "volume", "mountPath": "/volume"}]
    volumes = [{"name": "volume", "emptyDir": {}}]
    script = f"(cd /volume; {dig}) && cd /tmp && {dig}; exit 3"
    report = await host.end(host.run({"run": script, "volumeMounts": mounts}, volumes=volumes))
    assert terminated(report)["exitCode"] == 3


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("host_users", [False, True])
async def test_signals_to_everybody(host: Any, neighbour: None, host_users: bool, share: bool) -> None:
    """To the containers of its pod, that is."""
    script = "kill -9 1; kill -9 -1; sleep 0.1; exit 3"
    other = {"run": "sleep 0.5; exit 4"}
    spec = {"hostUsers": host_users, "shareProcessNamespace": share}
    report = await host.end(host.run({"run": script}, other, **spec))
    codes = [terminated(report, number)["exitCode"] for number in (0, 1)]
    assert codes in ([[3, 137], [3, 4]] if share else [[3, 4]])


async def test_a_storm_of_programs_in_an_app_that_ends(host: Any, neighbour: None) -> None:
    task = host.run({"run": "sleep 1000"})
    await host.until(task, lambda r: r.status["phase"] == "Running")
    sandbox = host.pods.find("default", "p").sandbox
    null = os.open(os.devnull, os.O_RDWR)
    words = ["sleep 1000", "exit 3", "setsid sleep 1000 & exit 4", "kill -9 $$"]

    async def one(number: int) -> Any:
        try:
            made = await sandbox.exec("c0", ["/bin/sh", "-c", words[number % 4]], streams=(null, null))
        except LaunchError as error:
            return str(error)
        return await made.ended

    programs = [asyncio.ensure_future(one(number)) for number in range(60)]
    await asyncio.wait(programs[1:2])
    host.pods.kill(task, 0.0, "enough")
    async with asyncio.timeout(60):
        found = set(await asyncio.gather(*programs))
    os.close(null)
    ends = {(None, 9), (3, None), (4, None)}
    assert all(how in ends or isinstance(how, str) for how in found), found
    await host.end(task)


ANSWERS = (
    "SSH-2.0-no",
    "HTTP/1.1 99999 x\\r\\n\\r\\n",
    "HTTP/1.1 302 x\\r\\nLocation: http://[\\r\\n\\r\\n",
    "HTTP/1.1 302 x\\r\\nLocation: http://127.0.0.1:99999/\\r\\n\\r\\n",
    "HTTP/1.1 500 x\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\nffffffffffffffffff\\r\\n",
    "HTTP/1.1 500 x\\r\\nX: ",
    "",
)


def answered(event: Any, app: str) -> bool:
    """Whether it tells of a probe that failed, for another reason than that nobody listened yet."""
    failed = event.reason == "Unhealthy" and event.message.startswith("Readiness probe failed: Get")
    return bool(
        failed and event.container == app and "refused" not in event.message and len(event.message) < 300
    )


async def test_answers_to_probes(host: Any, neighbour: None, caplog: pytest.LogCaptureFixture) -> None:
    """Each is a failure; what comes after it is not waited for."""
    probe = {"periodSeconds": 1, "timeoutSeconds": 1, "failureThreshold": 1, "successThreshold": 1}
    containers = [
        {
            "run": f"while :; do (printf '{answer}'; cat /dev/zero) | nc -l -p {8000 + number}; done",
            "readinessProbe": {**probe, "httpGet": {"port": 8000 + number}},
        }
        for number, answer in enumerate(ANSWERS)
    ]
    task = host.run(*containers)
    for number in range(len(ANSWERS)):
        await host.until(task, lambda r, app=f"c{number}": any(answered(event, app) for event in r.events))
    host.pods.kill(task, 0.0, "enough")
    await host.end(task)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
