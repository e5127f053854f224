"""Flavor linux, seen from inside: what an app is, has and may do."""

import os
import re
import socket
from pathlib import Path
from typing import Any

import pytest

from executor.pods.launcher import LaunchError
from executor.stage1 import caps

pytestmark = pytest.mark.root

NAMESPACES = ("pid", "mnt", "ipc", "uts", "net", "cgroup", "user")


async def test_every_namespace_is_new(runner: Any) -> None:
    result = await runner.sh("for n in pid mnt ipc uts net cgroup user; do readlink /proc/self/ns/$n; done")
    inside = dict(line.rstrip("]").split(":[") for line in result.lines)
    outside = {name: os.readlink(f"/proc/self/ns/{name}").split("[")[1].rstrip("]") for name in NAMESPACES}
    assert {name for name in inside if inside[name] != outside[name]} == set(NAMESPACES)


async def test_apps_of_a_pod_share_all_but_their_mounts(runner: Any) -> None:
    script = (
        "for n in pid ipc uts net mnt cgroup; do readlink /proc/self/ns/$n; done; exec >&- 2>&-; sleep 1000"
    )
    pod = await runner.pod(
        runner.pods.make(*(runner.pods.app("/bin/sh", "-c", script, name=name) for name in ("one", "two")))
    )
    seen = []
    for name in ("one", "two"):
        _, output = await pod.start(name)
        seen.append((await output.text()).split())
    assert seen[0][:4] == seen[1][:4]
    assert not set(seen[0][4:]) & set(seen[1][4:])


async def test_only_the_pod_s_processes_are_visible_and_init_is_pid_1(runner: Any) -> None:
    result = await runner.sh("cat /proc/1/comm; ls -d /proc/[0-9]*; echo $PPID")
    assert result.lines[0] == "gantry-init"
    assert len(result.lines) <= 5
    assert result.lines[-1] == "0"


async def test_hostname_loopback_and_files_in_etc(runner: Any) -> None:
    result = await runner.sh(
        "hostname; cat /etc/hostname; ip -o addr show lo; ls /sys/class/net; grep pod /etc/hosts"
    )
    assert result.lines[:2] == ["pod-host", "pod-host"]
    assert "127.0.0.1/8" in result.output
    assert "lo" in result.lines
    assert "eth0" not in result.lines
    assert result.lines[-1] == "127.0.0.1\tpod-host"


async def test_host_network(runner: Any) -> None:
    result = await runner.sh(
        "readlink /proc/self/ns/net; hostname", pod={"host_network": "true", "hostname": "node"}
    )
    assert result.lines == [os.readlink("/proc/self/ns/net"), "node"]


async def test_containers_of_a_pod_talk_over_localhost(runner: Any) -> None:
    server = runner.pods.app("/bin/nc", "-l", "-p", "7777", "-e", "/bin/echo", "hello", name="server")
    script = "until nc 127.0.0.1 7777; do usleep 10000; done"
    client = runner.pods.app("/bin/sh", "-c", script, name="client")
    pod = await runner.pod(runner.pods.make(server, client))
    _, served = await pod.start("server")
    _, output = await pod.start("client")
    assert "hello" in (await output.text())
    await served.text()


def capability_sets(output: str) -> dict[str, int]:
    return {name: int(value, 16) for name, value in re.findall(r"Cap(\w+):\t(\w+)", output)}


async def test_default_capabilities_are_the_fourteen(runner: Any) -> None:
    sets = capability_sets((await runner.sh("cat /proc/self/status")).output)
    fourteen = caps.mask(caps.DEFAULT)
    assert fourteen.bit_count() == 14
    assert sets == {"Inh": 0, "Prm": fourteen, "Eff": fourteen, "Bnd": fourteen, "Amb": 0}


async def test_capabilities_of_an_isolator_and_of_an_unprivileged_user(runner: Any) -> None:
    retain = {"name": "os/linux/capabilities-retain-set", "value": {"set": ["CAP_NET_RAW", "CAP_CHOWN"]}}
    two = caps.mask(("CAP_NET_RAW", "CAP_CHOWN"))
    sets = capability_sets((await runner.sh("cat /proc/self/status", isolators=[retain])).output)
    assert sets == {"Inh": 0, "Prm": two, "Eff": two, "Bnd": two, "Amb": 0}
    sets = capability_sets((await runner.sh("cat /proc/self/status", isolators=[retain], user="1000")).output)
    assert sets == {"Inh": 0, "Prm": 0, "Eff": 0, "Bnd": two, "Amb": 0}


async def test_no_new_privileges(runner: Any) -> None:
    for asked in (False, True):
        isolators = [{"name": "os/linux/no-new-privileges", "value": asked}]
        result = await runner.sh("grep NoNewPrivs /proc/self/status", isolators=isolators)
        assert result.output.split() == ["NoNewPrivs:", str(int(asked))]


async def test_user_group_and_home_are_the_image_s(runner: Any) -> None:
    result = await runner.sh(
        "id -u; id -g; id -G; echo $HOME", user="app", group="web", supplementaryGIDs=[9]
    )
    assert result.lines == ["1234", "2345", "2345 9 77", "/home/app"]
    result = await runner.sh("id -u; id -g; id -G; echo $HOME", user="4242", group="4343")
    assert result.lines == ["4242", "4343", "4343", "/"]


@pytest.mark.parametrize(
    ("user", "group", "message"),
    [
        ("nobody2", "0", '"nobody2" user not found: the image\'s /etc/passwd has no such user'),
        ("0", "grp", '"grp" group not found: the image\'s /etc/group has no such group'),
        ("²", "0", '"²" user not found'),
    ],
)
async def test_unknown_user_or_group_is_named(runner: Any, user: str, group: str, message: str) -> None:
    with pytest.raises(LaunchError, match=f"^{message}"):
        await runner.sh("id", user=user, group=group)


@pytest.mark.parametrize("number", [2**31, 2**32 - 1, 2**32, 10**30])
@pytest.mark.parametrize("users", ["private", "host"])
async def test_an_image_cannot_name_a_user_that_leaves_root_as_it_is(
    runner: Any, tmp_path: Path, number: int, users: str
) -> None:
    """To setresuid(2), 2^32-1 means that nothing changes (compare CVE-2024-40635)."""
    layer = tmp_path / "layer"
    (layer / "etc").mkdir(parents=True)
    (layer / "etc/passwd").write_text(f"app:x:{number}:{number}::/:\nother:x:7:7::/:\n")
    (layer / "etc/group").write_text(f"app:x:{number}:other\n")
    pod = {"layers": (layer,), "user_namespace": users}
    message = "is no user or group: they end at 2147483647"
    for who in (
        {"user": "app"},
        {"group": "app"},
        {"user": "other"},
        {"user": str(number)},
        {"group": str(number)},
    ):
        with pytest.raises(LaunchError, match=message):
            await runner.sh("id", **who, pod=pod)
    with pytest.raises(LaunchError, match=message):
        await runner.sh("id", supplementaryGIDs=[number], pod=pod)


async def test_environment_is_clean(runner: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_EXECUTOR", "1")
    result = await runner.app(
        "/bin/env", environment=[{"name": "A", "value": "b c"}, {"name": "HOSTNAME", "value": "x"}]
    )
    assert dict(line.split("=", 1) for line in result.lines) == {
        "A": "b c",
        "HOSTNAME": "x",
        "HOME": "/root",
        "USER": "root",
        "LOGNAME": "root",
        "SHELL": "/bin/sh",
        "AC_APP_NAME": "app",
        "container": "gantry",
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    }


@pytest.mark.parametrize(
    ("user", "expected"),
    [("app", ["app", "app", "/home/app"]), ("1234", ["app", "app", "/home/app"]), ("4242", ["-", "-", "/"])],
)
async def test_the_user_s_name_is_the_image_s(runner: Any, user: str, expected: list[str]) -> None:
    script = "printf '%s\\n' ${USER--} ${LOGNAME--} $HOME $SHELL ${TERM--}"
    assert (await runner.sh(script, user=user)).lines == [*expected, "/bin/sh", "-"]
    given = [{"name": name, "value": "mine"} for name in ("USER", "LOGNAME", "HOME", "SHELL", "TERM")]
    assert (await runner.sh(script, user=user, environment=given)).lines == ["mine"] * 5


async def test_the_app_s_name_is_not_the_image_s_to_say(runner: Any) -> None:
    given = [{"name": "AC_APP_NAME", "value": "x"}, {"name": "AC_METADATA_URL", "value": "y"}]
    result = await runner.sh("echo $AC_APP_NAME $AC_METADATA_URL", environment=given)
    assert result.output == "app y\n"  # nobody serves metadata here
    directory = runner.pods.make(runner.pods.app("/bin/sh", "-c", "echo $AC_METADATA_URL", environment=given))
    (directory / "metadata-url").write_text("http://127.0.0.1:1/token")
    pod = await runner.pod(directory)
    (directory / "metadata-url").unlink()
    _, output = await pod.start()
    assert await output.text() == "http://127.0.0.1:1/token\n"


async def test_a_working_directory_that_must_exist(runner: Any) -> None:
    must = [{"name": "gantry.io/working-directory", "value": "exists"}]
    assert (await runner.sh("pwd", workingDirectory="/tmp", annotations=must)).output == "/tmp\n"
    assert (await runner.sh("pwd", workingDirectory="/not/there")).output == "/not/there\n"
    with pytest.raises(LaunchError, match="chdir /not/there: No such file or directory"):
        await runner.sh("pwd", workingDirectory="/not/there", annotations=must)
    with pytest.raises(LaunchError, match="working-directory: 'x' is not one of made, exists"):
        await runner.sh("pwd", annotations=[{**must[0], "value": "x"}])


async def test_the_console_is_nobody_s_until_it_is_the_terminal(runner: Any) -> None:
    script = "stat -c %t:%T /dev/console; echo lost > /dev/console && echo ok"
    assert (await runner.sh(script)).lines == ["1:3", "ok"]
    assert (await runner.sh(script, flavor="linux", pod={"user_namespace": "host"})).lines == ["1:3", "ok"]


async def test_a_long_environment_arrives(runner: Any) -> None:
    value = "x" * 100_000
    entries = [{"name": name, "value": value} for name in ("A", "B")]
    assert (await runner.sh("echo ${#A} ${#B}", environment=entries)).output == "100000 100000\n"


async def test_working_directory(runner: Any) -> None:
    assert (await runner.app("/bin/pwd", workingDirectory="/home/app")).output == "/home/app\n"
    assert (await runner.app("/bin/pwd", workingDirectory="/made/for/it")).output == "/made/for/it\n"


async def test_streams_and_nothing_else_are_open(runner: Any) -> None:
    result = await runner.sh(
        "ls /proc/$$/fd; readlink /proc/self/fd/0; umask; ps -o pid,sid | grep -c ' 2 *2$'"
    )
    assert result.lines[:3] == ["0", "1", "2"]
    assert result.lines[-3:-1] == ["/dev/null", "0022"]


async def test_an_unprivileged_app_can_reopen_its_stdout(runner: Any) -> None:
    assert (await runner.sh("echo again > /dev/stdout", user="1000", group="1000")).output == "again\n"


async def test_stdin_is_passed(runner: Any) -> None:
    pod = await runner.pod(runner.pods.make(runner.pods.app("/bin/cat")))
    read_end, write_end = os.pipe()
    _, output = await pod.start(stdin=read_end)
    os.close(read_end)
    os.write(write_end, b"from outside")
    os.close(write_end)
    assert await output.text() == "from outside"


async def test_root_is_an_overlay_and_nothing_of_the_host_is_mounted(runner: Any, host_file: Path) -> None:
    result = await runner.sh(
        f"cat /proc/self/mountinfo; cat {host_file}; echo changed > /bin/new; cat /bin/new"
    )
    points = {line.split()[4]: line for line in result.lines if " - " in line}
    assert " - overlay " in points["/"]
    assert str(runner.pods.base) not in points["/"]
    assert all(point == "/" or point.startswith(("/proc", "/sys", "/dev", "/etc/")) for point in points)
    assert "of the host" not in result.output
    assert result.lines[-1] == "changed"
    assert not (runner.pods.image / "bin" / "new").exists()


async def test_the_end_of_an_app_waits_for_nobody_s_disk(runner: Any) -> None:
    """Its overlay is `volatile`: else its end, and that of a pod, writes out all that the host has not yet."""
    pod = await runner.pod(
        runner.pods.make(runner.pods.app("/bin/sh", "-c", "cat /proc/mounts; touch /x; sync"))
    )
    for _ in range(2):
        _, output = await pod.start()
        assert (await pod.ended()).exit_code == 0
        (root,) = [line for line in (await output.text()).splitlines() if line.split()[1] == "/"]
        assert {"volatile", "fsync=volatile"} & set(root.split()[3].split(","))


async def test_upper_layers_win(runner: Any, tmp_path: Path) -> None:
    layer = tmp_path / "layer"
    layer.mkdir()
    (layer / "plain.txt").write_text("from above\n")
    assert (await runner.app("/bin/cat", "/plain.txt", pod={"layers": (layer,)})).output == "from above\n"


async def test_many_layers_with_odd_names(runner: Any, tmp_path: Path) -> None:
    layers = []
    for number in range(60):
        layer = tmp_path / f"lay,er:{number:03} {'x' * 100}"
        layer.mkdir()
        (layer / f"file{number}").touch()
        layers.append(layer)
    result = await runner.sh("ls / | grep -c ^file", pod={"layers": tuple(layers)})
    assert result.output == "60\n"


async def test_read_only_root(runner: Any) -> None:
    script = "touch /new; touch /tmp/new; echo ok > /dev/null; touch /dev/shm/x && echo shm"
    result = await runner.sh(script, readOnlyRootFS=True)
    assert result.output.count("Read-only file system") == 2
    assert result.lines[-1] == "shm"


async def test_proc_and_sys_are_guarded(runner: Any) -> None:
    script = """
    for f in /proc/kcore /proc/keys /proc/timer_list; do [ -e $f ] && wc -c < $f; done
    echo 1 > /proc/sys/kernel/panic; mkdir /sys/fs/new; echo x > /sys/kernel/uevent_helper
    mount -t tmpfs x /tmp; umount /sys/firmware
    ls /sys/firmware | wc -l
    """
    result = await runner.sh(script)
    assert set(re.findall(r"^\d+$", result.output, re.MULTILINE)) == {"0"}
    assert (
        len(re.findall("Read-only file system|[Pp]ermission denied|Operation not perm", result.output)) == 5
    )


@pytest.mark.parametrize(("users", "refusal"), [("host", "Permission denied"), ("private", "not permitted")])
async def test_dev_is_small_and_no_other_device_opens(runner: Any, users: str, refusal: str) -> None:
    script = """
    ls /dev | tr '\\n' ' '; echo
    echo x > /dev/null && head -c 4 /dev/zero | od -An -tx1 && [ -c /dev/pts/ptmx ] && echo fine
    for d in /tmp /dev /dev/shm / /data; do
        mknod $d/disk b 7 0 && { dd if=$d/disk of=/dev/null count=1 && echo OPENED $d; }
        mknod $d/zero2 c 1 5 && head -c 1 $d/zero2 && echo OPENED $d
    done
    """
    volumes = [{"name": "data", "kind": "empty"}]
    mounts = [{"volume": "data", "path": "/data"}]
    result = await runner.sh(script, mounts=mounts, pod={"volumes": volumes, "user_namespace": users})
    expected = "console fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero"
    assert " ".join(result.lines[0].split()) == expected
    assert "fine" in result.lines
    assert "OPENED" not in result.output
    assert result.output.count(refusal) == 10


async def test_privileged(runner: Any) -> None:
    annotations = [{"name": "gantry.io/privileged", "value": "true"}]
    script = """
    grep CapEff /proc/self/status; ls /dev | grep -c tty; mkdir /m && mount -t tmpfs x /m && echo mounted
    [ -w /proc/sys/kernel/panic ] && grep -q ' /sys sysfs rw' /proc/mounts && echo writable
    """
    result = await runner.sh(script, annotations=annotations)
    assert int(result.lines[0].split()[1], 16) == caps.held()
    assert int(result.lines[1]) >= 1
    assert result.lines[2:] == ["mounted", "writable"]


async def test_oom_score(runner: Any) -> None:
    isolators = [{"name": "os/linux/oom-score-adj", "value": 321}]
    assert (await runner.app("/bin/cat", "/proc/self/oom_score_adj", isolators=isolators)).output == "321\n"


async def test_shared_memory_is_the_pod_s(runner: Any) -> None:
    one = runner.pods.app("/bin/sh", "-c", "echo hi > /dev/shm/x; echo hi > /tmp/x", name="one")
    two = runner.pods.app("/bin/sh", "-c", "cat /dev/shm/x; ls /tmp", name="two")
    pod = await runner.pod(runner.pods.make(one, two))
    await (await pod.start("one"))[1].text()
    assert await (await pod.start("two"))[1].text() == "hi\n"


async def test_signal_dispositions_and_mask_are_clean(runner: Any) -> None:
    result = await runner.app("/bin/grep", "-E", "Sig(Blk|Ign)", "/proc/self/status")
    # glibc's posix_spawn ignores its own two signals (32, 33) in what it starts.
    assert [int(line.split()[1], 16) & ~(3 << 31) for line in result.lines] == [0, 0]


async def test_a_neighbour_with_ptrace_finds_nothing_to_take_over(runner: Any) -> None:
    capabilities = [*caps.DEFAULT, "CAP_SYS_PTRACE"]
    retain = [{"name": "os/linux/capabilities-retain-set", "value": {"set": capabilities}}]
    result = await runner.sh(
        "ls /proc/1/root/; ls -l /proc/1/fd | grep -o '/.*'; grep CapBnd /proc/1/status",
        isolators=retain,
        pod={"user_namespace": "host"},
    )
    assert "etc" not in result.lines
    assert "usr" not in result.lines
    assert [line for line in result.lines if line.startswith("/")] == ["/null"] * 3
    assert int(result.lines[-1].split()[1], 16) == 0


async def test_interpreter_of_the_launcher_cannot_be_had_through_exec(runner: Any, tmp_path: Path) -> None:
    for path in ("/proc/self/exe", "/proc/1/exe", "/proc/1/root/bin/sh"):
        with pytest.raises(
            LaunchError,
            match=rf"^exec {path}: (Too many levels of symbolic links|No such file|Permission denied)",
        ):
            await runner.app(path)
    layer = tmp_path / "layer"
    layer.mkdir()
    (layer / "script").write_text("#!/proc/self/exe\n")
    (layer / "script").chmod(0o755)
    # The kernel resolves the interpreter itself; it must at least be a read-only file that is found there.
    try:
        result = await runner.app("/script", pod={"layers": (layer,)})
    except LaunchError:
        return
    assert result.exit.exit_code != 0


async def test_unix_sockets_of_the_host_are_out_of_reach(runner: Any) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("\0stage1-test-" + str(os.getpid()))
        listener.listen()
        result = await runner.sh("cat /proc/net/unix")
    assert "stage1-test" not in result.output


@pytest.mark.parametrize("count", [50, 127, 199])
async def test_images_of_many_layers(count: int, runner: Any, tmp_path: Path) -> None:
    """As long as the paths of a store are, and as many as an image may have; the uppermost layer wins."""
    layers = []
    for number in range(count):
        layer = tmp_path / f"sha256-{number:064d}" / "tree"
        layer.mkdir(parents=True)
        (layer / f"file{number}").touch()
        (layer / "who").write_text(f"{number}\n")
        layers.append(layer)
    result = await runner.sh("cat /who; ls / | grep -c ^file", pod={"layers": tuple(layers)})
    assert result.lines == ["0", str(count)]
