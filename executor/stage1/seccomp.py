"""Seccomp filters: what an app asks for, as rules, and the BPF program that the kernel runs (seccomp(2)).

Rules are data. libseccomp (through ctypes: its own binding is not on PyPI) resolves names for the machine and compiles;
the result is kept by the launcher, so a start only installs it. Fails closed: what is unknown where it would
forbid, or needed for the start itself, is an error, never left out.
"""

import ctypes
import errno
import functools
import json
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, NamedTuple

from executor.stage1 import caps, syscall_lists
from executor.stage1.compact import compact
from executor.stage1.syscall_lists import BY_CAPABILITY, WILDCARDS

# What the starter still calls once the filter is there: drop its capabilities, spawn the app (glibc's posix_spawn, in
# CPython's memory), say so, and end. Every app's own start needs most of it as well.
_NEEDED: Final = (
    "brk capset clone close execve exit_group futex madvise mmap munmap rt_sigaction rt_sigprocmask rt_sigreturn "
    "sendmsg setsid wait4 write"
)
NEEDED: Final = tuple(_NEEDED.split())

_ACTIONS: Final = {
    "SCMP_ACT_ALLOW": 0x7FFF0000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_ERRNO": 0x00050000,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_KILL": 0x00000000,
    "SCMP_ACT_KILL_THREAD": 0x00000000,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
}
_COMPARE: Final = {
    name: number
    for number, name in enumerate(
        ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"),
        start=1,
    )
}
_NAMES: Final = (
    "X86 X86_64 X32 ARM AARCH64 MIPS MIPS64 MIPS64N32 MIPSEL MIPSEL64 MIPSEL64N32 PPC PPC64 PPC64LE S390 S390X "
    "PARISC PARISC64 RISCV64"
)
_ARCHITECTURES: Final = tuple(f"SCMP_ARCH_{name}" for name in _NAMES.split())
"""As the OCI runtime-spec lists them (config-linux.md#seccomp)."""
_COMPATIBLE: Final = {"x86_64": ("x86", "x32"), "aarch64": ("arm",)}
"""What else programs of a machine can be made for; the first is that of 32 bit programs."""
ALLOW: Final = _ACTIONS["SCMP_ACT_ALLOW"]
KILL_PROCESS: Final = _ACTIONS["SCMP_ACT_KILL_PROCESS"]
_MAX_ERRNO: Final = 4095


class SeccompError(ValueError):
    """A filter that cannot be made as asked; the message says what is wrong with it."""


class Compare(NamedTuple):
    """A condition on one argument (0 to 5): `op` as libseccomp numbers them; MASKED_EQ: arg & value == second."""

    argument: int
    op: int
    value: int
    second: int = 0


class Rule(NamedTuple):
    """The same action for several calls; all conditions must hold. ours: names of our own lists, of which a libseccomp
    that is older than they may not know all."""

    names: tuple[str, ...]
    action: int
    conditions: tuple[Compare, ...] = ()
    ours: bool = False


class Filter(NamedTuple):
    """`default` is for calls that no rule names. Actions are SECCOMP_RET values. `strict`: no name may be unknown.

    `architectures`: beside the machine's own, as libseccomp names them; None: that of its 32 bit programs. A call of
    any other (x32, if it is not listed) kills the process.
    """

    default: int
    rules: tuple[Rule, ...]
    strict: bool = True
    architectures: tuple[str, ...] | None = None


def refusal(number: int) -> int:
    """The action that makes a call fail with this errno."""
    return _ACTIONS["SCMP_ACT_ERRNO"] | number


@functools.lru_cache(maxsize=64)
def default_filter(capabilities: frozenset[str]) -> Filter:
    """What an app gets that says nothing: the allow-list, and what its capabilities are for."""
    names = set(syscall_lists.DEFAULT)
    for capability in capabilities:
        names.update(BY_CAPABILITY.get(capability, ()))
    rules = [Rule(tuple(sorted(names)), ALLOW)]
    if "CAP_SYS_ADMIN" not in capabilities:
        namespaces = 0x7E020000  # CLONE_NEW*: user, pid, net, ipc, uts, cgroup, mount
        rules.append(Rule(("clone",), ALLOW, (Compare(0, _COMPARE["MASKED_EQ"], namespaces, 0),)))
        # Its flags are behind a pointer: programs that hear ENOSYS fall back to clone.
        rules.append(Rule(("clone3",), refusal(errno.ENOSYS)))
    # Every socket but vsock, which would reach the host of a virtual machine.
    vsock = 40
    rules.append(Rule(("socket",), ALLOW, (Compare(0, _COMPARE["NE"], vsock),)))
    rules += [
        Rule(("personality",), ALLOW, (Compare(0, _COMPARE["EQ"], value),))
        for value in (0, 0x0008, 0x20000, 0x20008, 0xFFFFFFFF)  # Linux, 32 bits, UNAME26, ask
    ]
    return Filter(refusal(errno.EPERM), tuple(rules), strict=False)


def retain(names: Iterable[str], number: int | None) -> Filter | None:
    """os/linux/seccomp-retain-set (appc ace.md): these calls and no others. None: no filter at all.

    Without an errno a call outside the set kills the app, as in the spec. What starting takes (NEEDED) is always in
    the set, as with rkt, where systemd saw to that (systemd.exec(5), SystemCallFilter).
    """
    names = list(names)
    if "@appc.io/all" in names:
        return None
    other = KILL_PROCESS if number is None else refusal(number)
    default: tuple[Rule, ...] = ()
    listed: dict[bool, set[str]] = {False: set(), True: set()}
    for name in names:
        if name in ("@rkt/default-whitelist", "@docker/default-whitelist", "@systemd/default-whitelist"):
            default = tuple(rule._replace(ours=True) for rule in default_filter(frozenset()).rules)
        else:
            listed[name.startswith("@")].update(_expand(name))
    if not {"clone3", "@systemd/process"} & set(names) and not default:
        default = (Rule(("clone3",), refusal(errno.ENOSYS)),)  # which glibc's posix_spawn tries before clone
    own = Rule(tuple(sorted({*listed[False], *NEEDED})), ALLOW)
    sets = Rule(tuple(sorted(listed[True] - set(own.names))), ALLOW, ours=True)
    return Filter(other, (*default, *([sets] if sets.names else []), own))


def remove(names: Iterable[str], number: int | None, capabilities: frozenset[str]) -> Filter:
    """os/linux/seccomp-remove-set: everything but these; an empty set (`@appc.io/empty`) means the default."""
    listed = sorted({call for name in names for call in _expand(name)})
    if not listed:
        return default_filter(capabilities)
    action = KILL_PROCESS if number is None else refusal(number)
    return Filter(ALLOW, (Rule(tuple(listed), action),))


def within(outer: Filter, wanted: Filter) -> Filter:
    """What an allow-list and a set that was read by `retain` or `remove` both let through."""
    if wanted.default == ALLOW:
        forbidden = {name for rule in wanted.rules for name in rule.names}
        return Filter(
            outer.default, (*_only(outer, lambda name: name not in forbidden), *wanted.rules), False
        )
    allowed = {name for rule in wanted.rules if rule.action == ALLOW for name in rule.names}
    return Filter(wanted.default, tuple(_only(outer, allowed.__contains__)), False)


def allowing(wanted: Filter, names: tuple[str, ...]) -> Filter:
    """With these calls allowed, too. Raises SeccompError for a filter that means to forbid one of them."""
    for rule in wanted.rules:
        if rule.action != ALLOW and (forbidden := set(rule.names) & set(names)):
            raise SeccompError(
                f"seccomp: the filter forbids {', '.join(sorted(forbidden))}: no sockets could be handed over under it"
            )
    if wanted.default == ALLOW:
        return wanted
    return wanted._replace(rules=(*wanted.rules, Rule(names, ALLOW, ours=True)))


def _only(outer: Filter, named: Callable[[str], bool]) -> Iterator[Rule]:
    """Rules that allow, for the calls so named; and all that refuse."""
    for rule in outer.rules:
        names = tuple(filter(named, rule.names)) if rule.action == ALLOW else rule.names
        if names:
            yield rule._replace(names=names)


def _expand(name: str) -> tuple[str, ...]:
    if not name.startswith("@"):
        return (name,)
    if name not in WILDCARDS:
        raise SeccompError(f"seccomp: no set of system calls is called {name}")
    return WILDCARDS[name]


def from_profile(profile: Any) -> Filter:
    """A profile file as Kubernetes' `Localhost` means it (OCI runtime-spec, config-linux.md#seccomp).

    docker's `includes`/`excludes` and listeners are not part of that, and refused. Raises SeccompError.
    """
    if not isinstance(profile, dict):
        raise SeccompError("seccomp profile: not a JSON object")
    known = {"defaultAction", "defaultErrnoRet", "architectures", "syscalls", "flags"}
    if strange := sorted(set(profile) - known):
        raise SeccompError(f"seccomp profile: {', '.join(strange)}: not supported")
    if flags := profile.get("flags"):
        raise SeccompError(f"seccomp profile: flags {flags!r}: not supported")
    architectures = _architectures(profile.get("architectures"))
    rules = []
    for number, entry in enumerate(profile.get("syscalls") or ()):
        where = f"seccomp profile: syscalls[{number}]"
        if strange := sorted(set(entry) - {"names", "action", "args", "errnoRet"}):
            raise SeccompError(f"{where}.{strange[0]}: not supported")
        if not entry.get("names"):
            raise SeccompError(f"{where}.names: none given")
        action = _action(where, entry.get("action"), entry.get("errnoRet"))
        conditions = tuple(_condition(where, one) for one in entry.get("args") or ())
        rules.append(Rule(tuple(map(str, entry["names"])), action, conditions))
    default = _action(
        "seccomp profile: default", profile.get("defaultAction"), profile.get("defaultErrnoRet")
    )
    # An unknown name is left out where it would allow; where it would forbid, the default must do so already.
    return Filter(default, tuple(rules), default == ALLOW, architectures)


def _architectures(listed: Any) -> tuple[str, ...] | None:
    """Those of them that programs of this machine can have; None when the profile does not say."""
    if not listed:
        return None
    if strange := [one for one in listed if one not in _ARCHITECTURES]:
        raise SeccompError(
            f"seccomp profile: architectures: {strange[0]!r} is none of {', '.join(_ARCHITECTURES)}"
        )
    names = {str(one).removeprefix("SCMP_ARCH_").lower() for one in listed}
    return tuple(one for one in _COMPATIBLE.get(os.uname().machine, ()) if one in names)


def _action(where: str, name: Any, number: Any) -> int:
    if name not in _ACTIONS:
        raise SeccompError(f"{where}: action {name!r} is none of {', '.join(_ACTIONS)}")
    action = _ACTIONS[name]
    if name != "SCMP_ACT_ERRNO":
        return action
    number = errno.EPERM if number is None else number
    if not isinstance(number, int) or not 0 <= number <= _MAX_ERRNO:
        raise SeccompError(f"{where}: errno {number!r} is not a number from 0 to {_MAX_ERRNO}")
    return action | number


def _condition(where: str, entry: dict[str, Any]) -> Compare:
    op = str(entry.get("op", "")).removeprefix("SCMP_CMP_")
    index, value, second = entry.get("index"), entry.get("value", 0), entry.get("valueTwo", 0)
    if op not in _COMPARE or not isinstance(index, int) or not 0 <= index <= 5:
        raise SeccompError(f"{where}.args: {json.dumps(entry)} is not a condition")
    if not all(isinstance(number, int) and 0 <= number < 1 << 64 for number in (value, second)):
        raise SeccompError(f"{where}.args: {json.dumps(entry)}: not a 64 bit number")
    return Compare(index, _COMPARE[op], value, second)


# -- compiling ------------------------------------------------------------------------------------------------


class _ArgCmp(ctypes.Structure):
    """struct scmp_arg_cmp (seccomp.h)."""

    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


_BAD_ARCHITECTURE: Final = 2  # SCMP_FLTATR_ACT_BADARCH
_UNKNOWN: Final = -1  # __NR_SCMP_ERROR; other negative numbers: known, but not on this architecture
_OPTIMIZE: Final = 8  # SCMP_FLTATR_CTL_OPTIMIZE
_BINARY_TREE: Final = 2


@functools.cache
def _library() -> Any:
    """libseccomp 2.5. Raises SeccompError when it is not installed."""
    try:
        library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
        library.seccomp_init.restype = ctypes.c_void_p
        library.seccomp_init.argtypes = [ctypes.c_uint32]
        library.seccomp_arch_resolve_name.restype = ctypes.c_uint32
        for name, arguments in (
            ("seccomp_release", [ctypes.c_void_p]),
            ("seccomp_attr_set", [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32]),
            ("seccomp_arch_add", [ctypes.c_void_p, ctypes.c_uint32]),
            ("seccomp_export_bpf", [ctypes.c_void_p, ctypes.c_int]),
            (
                "seccomp_rule_add_array",
                [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.POINTER(_ArgCmp)],
            ),
        ):
            getattr(library, name).argtypes = arguments
    except (OSError, AttributeError) as error:
        raise SeccompError(f"seccomp filters need libseccomp (Debian: libseccomp2): {error}") from None
    return library


def why_not() -> str:
    """Why filters cannot be made here; "" when they can."""
    try:
        compile_filter(Filter(ALLOW, ()))
    except SeccompError as error:
        return str(error)
    return (
        ""
        if os.path.exists("/proc/sys/kernel/seccomp/actions_avail")
        else "the kernel has no seccomp filters"
    )


def warm_up() -> None:
    """Compile the usual filter ahead of need (some milliseconds). What is wrong is said when a pod needs it."""
    try:
        compile_filter(default_filter(caps.DEFAULT))
    except SeccompError:
        pass


@functools.lru_cache(maxsize=256)
def compile_filter(wanted: Filter) -> bytes:
    """The program (array of struct sock_filter) for this machine and its 32 bit programs. Raises SeccompError."""
    library = _library()
    _check_needed(wanted)
    context = library.seccomp_init(wanted.default)
    if not context:
        raise SeccompError(f"seccomp: the default action {wanted.default:#x} is not known to this libseccomp")
    try:
        others = wanted.architectures
        for name in _COMPATIBLE.get(os.uname().machine, ())[:1] if others is None else others:
            token = library.seccomp_arch_resolve_name(name.encode())
            _done(library.seccomp_arch_add(context, token), f"add architecture {name}")
        library.seccomp_attr_set(context, _BAD_ARCHITECTURE, KILL_PROCESS)
        library.seccomp_attr_set(context, _OPTIMIZE, _BINARY_TREE)
        for rule in wanted.rules:
            _add(library, context, wanted, rule)
        return compact(_export(library, context))
    finally:
        library.seccomp_release(context)


def _add(library: Any, context: int, wanted: Filter, rule: Rule) -> None:
    if rule.action == wanted.default:
        return  # libseccomp refuses to say the same twice
    conditions = (_ArgCmp * max(1, len(rule.conditions)))(*(_ArgCmp(*one) for one in rule.conditions))
    for name in rule.names:
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number == _UNKNOWN:
            # Left out of an allow-list of ours or of a profile it stays forbidden; anything else would fail open.
            if (wanted.strict and not rule.ours) or rule.action not in (ALLOW, _ACTIONS["SCMP_ACT_LOG"]):
                raise SeccompError(f"seccomp: Linux has no system call {name!r} (that this libseccomp knows)")
            continue
        result = library.seccomp_rule_add_array(
            context, rule.action, number, len(rule.conditions), conditions
        )
        if result != -errno.EEXIST:
            _done(result, f"rule for {name}")


def _done(result: int, what: str) -> None:
    if result and result not in (-errno.EEXIST, -errno.EDOM):
        raise SeccompError(f"seccomp: {what}: {os.strerror(-result)}")


def _export(library: Any, context: int) -> bytes:
    fd = os.memfd_create("seccomp", os.MFD_CLOEXEC)
    try:
        _done(library.seccomp_export_bpf(context, fd), "compile")
        size = os.lseek(fd, 0, os.SEEK_END)
        return os.pread(fd, size, 0)
    finally:
        os.close(fd)


def _check_needed(wanted: Filter) -> None:
    """A start under a filter that forbids starting would fail without saying why."""
    verdicts = dict.fromkeys(NEEDED, wanted.default)
    for rule in wanted.rules:
        for name in rule.names:
            if name in verdicts and (not rule.conditions or rule.action == ALLOW):
                verdicts[name] = rule.action
    passing = (ALLOW, _ACTIONS["SCMP_ACT_LOG"])
    if forbidden := [name for name, action in verdicts.items() if action not in passing]:
        raise SeccompError(
            f"seccomp: the filter forbids {', '.join(forbidden)}: no program could be started under it"
        )
