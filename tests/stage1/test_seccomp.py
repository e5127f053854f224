"""Seccomp: which rules come out of what is asked for, and what an app under them can do."""

import errno
import os
import signal
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

from executor.pods.launcher import LaunchError
from executor.stage1 import caps, seccomp
from executor.stage1.seccomp import SeccompError
from executor.stage1.syscall_lists import BY_CAPABILITY, DEFAULT, WILDCARDS

STATUS = "grep -E '^(Seccomp|NoNewPrivs|CapEff)' /proc/self/status"


def isolator(name: str, *names: str, **more: str) -> dict[str, Any]:
    return {"name": f"os/linux/seccomp-{name}-set", "value": {"set": list(names), **more}}


def test_the_default_lets_no_administration_through() -> None:
    allowed = {name for rule in seccomp.default_filter(caps.DEFAULT).rules for name in rule.names}
    for capability in ("CAP_SYS_ADMIN", "CAP_SYS_MODULE", "CAP_SYS_BOOT", "CAP_SYS_TIME"):
        only = set(BY_CAPABILITY[capability]) - {"clone", "clone3"}
        assert not allowed & only, capability
    assert not allowed & {
        "keyctl",
        "add_key",
        "request_key",
        "kexec_load",
        "userfaultfd",
        "io_uring_setup",
        "bpf",
    }


def test_a_capability_brings_the_calls_it_is_for() -> None:
    rules = seccomp.default_filter(caps.DEFAULT | {"CAP_SYS_ADMIN"}).rules
    assert {"mount", "unshare", "setns"} <= set(rules[0].names)
    assert not any("clone3" in rule.names for rule in rules[1:])


def test_lists_name_no_call_twice() -> None:
    for calls in (DEFAULT, *BY_CAPABILITY.values(), *WILDCARDS.values()):
        assert len(calls) == len(set(calls))


def test_the_denying_sets_compile() -> None:
    for name in WILDCARDS:
        if not set(seccomp.NEEDED) & set(WILDCARDS[name]):
            assert seccomp.compile_filter(seccomp.remove([name], 1, caps.DEFAULT))


@pytest.mark.parametrize(
    ("names", "number", "message"),
    [
        (["@appc.io/everything"], None, "no set of system calls is called @appc.io/everything"),
        (["no_such_call"], None, "no system call 'no_such_call'"),
        (["execve"], errno.EPERM, "the filter forbids execve"),
    ],
)
def test_a_remove_set_fails_closed(names: list[str], number: int | None, message: str) -> None:
    with pytest.raises(SeccompError, match=message):
        seccomp.compile_filter(seccomp.remove(names, number, caps.DEFAULT))


@pytest.mark.parametrize("name", ["@rkt/default-whitelist", "@docker/default-whitelist", "@systemd/process"])
def test_lists_of_ours_compile_with_a_libseccomp_that_is_older(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not know all of their calls, which then stay forbidden; what somebody has written it has to know."""
    monkeypatch.setitem(WILDCARDS, "@systemd/process", (*WILDCARDS["@systemd/process"], "call_of_tomorrow"))
    kept = seccomp.retain([name, "read"], errno.EPERM)
    assert kept is not None
    assert seccomp.compile_filter(kept)
    typo = seccomp.retain([name, "raed"], errno.EPERM)
    assert typo is not None
    with pytest.raises(SeccompError, match="no system call 'raed'"):
        seccomp.compile_filter(typo)


def test_an_empty_remove_set_is_the_default_and_retaining_all_is_no_filter() -> None:
    assert seccomp.remove(["@appc.io/empty"], None, caps.DEFAULT) == seccomp.default_filter(caps.DEFAULT)
    assert seccomp.retain(["@appc.io/all"], None) is None
    unknown = seccomp.retain(["no_such_call"], None)
    assert unknown is not None
    with pytest.raises(SeccompError, match="no_such_call"):
        seccomp.compile_filter(unknown)


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        ([], "not a JSON object"),
        ({"defaultAction": "SCMP_ACT_FORBID"}, "action 'SCMP_ACT_FORBID'"),
        ({"defaultAction": "SCMP_ACT_ERRNO", "listenerPath": "/x"}, "listenerPath: not supported"),
        (
            {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": [], "action": "SCMP_ACT_KILL"}]},
            r"syscalls\[0\]",
        ),
        (
            {
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": ["chmod"], "action": "SCMP_ACT_ERRNO", "includes": {"caps": ["x"]}}],
            },
            "includes: not supported",
        ),
        (
            {
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [
                    {
                        "names": ["chmod"],
                        "action": "SCMP_ACT_ERRNO",
                        "args": [{"index": 9, "op": "SCMP_CMP_EQ"}],
                    }
                ],
            },
            "not a condition",
        ),
        ({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 70000}, "errno 70000"),
        ({"defaultAction": "SCMP_ACT_ERRNO"}, "the filter forbids brk, capset"),
    ],
)
def test_what_is_wrong_with_a_profile_is_named(profile: Any, message: str) -> None:
    with pytest.raises(SeccompError, match=message):
        seccomp.compile_filter(seccomp.from_profile(profile))


@pytest.mark.root
async def test_an_app_has_the_default_filter_and_cannot_administer(runner: Any) -> None:
    result = await runner.sh(
        f"{STATUS}; unshare -m true; mount -t tmpfs x /tmp; echo $?; date -s 2000-01-01; echo $?"
    )
    assert "Seccomp:\t2" in result.lines
    assert "NoNewPrivs:\t0" in result.lines
    assert "CapEff:\t00000000a80425fb" in result.lines
    assert result.output.count("not permitted") == 2
    assert "permission denied" in result.output


@pytest.mark.root
@pytest.mark.parametrize("user", ["0", "1234"])
@pytest.mark.parametrize("no_new_privileges", [True, False])
async def test_the_filter_is_there_whoever_the_app_is(
    runner: Any, user: str, no_new_privileges: bool
) -> None:
    result = await runner.sh(
        STATUS, user=user, isolators=[{"name": "os/linux/no-new-privileges", "value": no_new_privileges}]
    )
    assert "Seccomp:\t2" in result.lines
    assert f"NoNewPrivs:\t{int(no_new_privileges)}" in result.lines
    assert f"CapEff:\t{'00000000a80425fb' if user == '0' else '0' * 16}" in result.lines


@pytest.mark.root
@pytest.mark.parametrize(
    "more",
    [
        {"isolators": [isolator("retain", "@appc.io/all")]},
        {"flavor": "fly"},
        {"annotations": [{"name": "gantry.io/privileged", "value": "true"}]},
    ],
    ids=["asked", "fly", "privileged"],
)
async def test_no_filter(runner: Any, more: dict[str, Any]) -> None:
    assert "Seccomp:\t0" in (await runner.sh(STATUS, **more)).lines


@pytest.mark.root
async def test_removed_calls_fail_with_the_errno_asked_for(runner: Any) -> None:
    script = "touch /tmp/x; chmod 600 /tmp/x; mkdir /tmp/y && echo made"
    removed = isolator("remove", "chmod", "fchmodat", "fchmod", errno="EXDEV")
    result = await runner.sh(script, isolators=[removed])
    assert "cross-device link" in result.output
    assert result.lines[-1] == "made"


@pytest.mark.root
async def test_a_call_outside_a_retain_set_kills_the_app(runner: Any) -> None:
    start = "arch_prctl set_tid_address set_robust_list rseq prlimit64 readlink getrandom mprotect getcwd fcntl dup2"
    shell = "read open openat close fstat stat newfstatat ioctl getuid geteuid getgid getegid getpid getppid uname"
    kept = isolator("retain", *f"{start} {shell} prctl fork rt_sigsuspend readlinkat lseek poll".split())
    assert (await runner.sh("echo still here", isolators=[kept])).output == "still here\n"
    result = await runner.sh("mkdir /tmp/x; echo not reached", isolators=[kept])
    assert "not reached" not in result.output or "Bad system call" in result.output
    alone = await runner.app("/bin/busybox", "mkdir", "/tmp/x", isolators=[kept])
    assert alone.exit.signal == signal.SIGSYS


@pytest.mark.root
async def test_a_profile_with_conditions(runner: Any) -> None:
    # kill(2) may be called with signal 0 only.
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
        "syscalls": [
            {
                "names": ["kill"],
                "action": "SCMP_ACT_ERRNO",
                "errnoRet": errno.ENOLINK,
                "args": [{"index": 1, "value": 0, "op": "SCMP_CMP_NE"}],
            }
        ],
    }
    result = await runner.sh(
        "kill -0 $$ && echo probed; kill -TERM $$; echo alive",
        isolators=[{"name": "gantry.io/seccomp-profile", "value": profile}],
    )
    assert result.lines[0] == "probed"
    assert result.lines[-1] == "alive"
    assert "severed" in result.output


@pytest.mark.root
@pytest.mark.parametrize(
    ("isolators", "message"),
    [
        ([isolator("remove", "nonsense")], "no system call 'nonsense'"),
        ([isolator("remove", "chmod", errno="EWHAT")], "no errno 'EWHAT'"),
        ([isolator("remove", "chmod"), isolator("retain", "chmod")], "there is a seccomp filter already"),
    ],
)
async def test_a_filter_that_cannot_be_is_refused(runner: Any, isolators: list[Any], message: str) -> None:
    with pytest.raises(LaunchError, match=message):
        await runner.sh("true", isolators=isolators)


def test_an_image_s_set_can_only_take_away() -> None:
    outer = seccomp.default_filter(caps.DEFAULT)
    kept = seccomp.retain(["read", "socket", "mount", "clone"], errno.EPERM)
    assert kept is not None
    both = seccomp.within(outer, kept)
    allowed = {name for rule in both.rules if rule.action == seccomp.ALLOW for name in rule.names}
    assert {"read", "socket", "clone", *seccomp.NEEDED} >= allowed >= {"read", "socket", "clone", "execve"}
    assert all(rule.conditions for rule in both.rules if {"socket", "clone"} & set(rule.names))
    assert seccomp.compile_filter(both)
    less = seccomp.within(outer, seccomp.remove(["ptrace", "mount"], None, caps.DEFAULT))
    of = {name: rule.action for rule in less.rules for name in rule.names}
    assert (of["ptrace"], of["read"], less.default) == (
        seccomp.KILL_PROCESS,
        seccomp.ALLOW,
        seccomp.refusal(errno.EPERM),
    )
    assert seccomp.compile_filter(less)


async def test_all_that_an_image_may_ask_for_is_the_default(runner: Any) -> None:
    everything = isolator("retain", "@appc.io/all")
    within = {**everything, "value": {**everything["value"], "gantry.io/within-default": True}}
    for isolators, mode in (([everything], "0"), ([within], "2")):
        result = await runner.sh("grep -E ^Seccomp: /proc/self/status", isolators=isolators)
        assert result.output.split() == ["Seccomp:", mode]


@pytest.mark.parametrize(
    ("listed", "others"),
    [
        ([], None),
        (["SCMP_ARCH_X86_64"], ()),
        (["SCMP_ARCH_X32", "SCMP_ARCH_X86_64", "SCMP_ARCH_ARM"], ("x32",)),
        (["SCMP_ARCH_X86", "SCMP_ARCH_X32"], ("x86", "x32")),
    ],
)
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the lists are x86_64's")
def test_the_architectures_of_a_profile(listed: list[str], others: tuple[str, ...] | None) -> None:
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "architectures": listed}
    assert seccomp.from_profile(profile).architectures == others


def test_an_architecture_that_nobody_knows() -> None:
    with pytest.raises(SeccompError, match="architectures: 'SCMP_ARCH_VAX' is none of"):
        seccomp.from_profile({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_VAX"]})


INT_0X80, SYSCALL = b"\xcd\x80", b"\x0f\x05"
ADD_KEY, GETUID32, X32_GETPID = 286, 199, 0x40000000 | 39


def program(how: bytes, number: int) -> bytes:
    """A static executable that makes one call, all its arguments 0, and ends with the errno of that."""
    zero = bytes.fromhex("31db 31c9 31d2 31f6 31ff")
    code = b"\xb8" + struct.pack("<I", number) + zero + how + bytes.fromhex("f7d8 89c7 b83c000000 0f05")
    size, base = 64 + 56 + len(code), 0x400000
    head = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 2, 62, 1, base + 120, 64, 0, 0, 64, 56, 1, 64, 0, 0
    )
    return head + struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 0x1000) + code


def runs(file: Path) -> bool:
    return subprocess.run([file], check=False).returncode >= 0


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the programs are x86_64's")
@pytest.mark.parametrize(
    ("how", "number", "architectures", "code", "signum"),
    [
        (INT_0X80, ADD_KEY, None, errno.EPERM, None),  # 32 bits: the same filter
        (INT_0X80, GETUID32, None, 0, None),
        (SYSCALL, X32_GETPID, None, None, signal.SIGSYS),  # a third way in, which nobody needs
        (INT_0X80, GETUID32, ["SCMP_ARCH_X86_64"], None, signal.SIGSYS),
        (INT_0X80, GETUID32, ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"], 0, None),
    ],
)
async def test_calls_of_other_architectures(
    runner: Any,
    tmp_path: Path,
    how: bytes,
    number: int,
    architectures: list[str] | None,
    code: int | None,
    signum: int | None,
) -> None:
    file = tmp_path / "layer/call"
    file.parent.mkdir()
    file.write_bytes(program(how, number))
    file.chmod(0o755)
    if how == INT_0X80 and not runs(file):
        pytest.skip("this kernel runs nothing of 32 bits")
    isolators = []
    if architectures is not None:
        profile = {"defaultAction": "SCMP_ACT_ALLOW", "architectures": architectures}
        isolators = [{"name": "gantry.io/seccomp-profile", "value": profile}]
    pod = runner.pods.make(runner.pods.app("/call", isolators=isolators), layers=(file.parent,))
    running = await runner.pod(pod)
    await running.start()
    ended = await running.ended()
    assert (ended.exit_code, ended.signal) == (code, signum)
