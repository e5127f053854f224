"""Runs CNI plugins: programs of somebody else's, as root, on this machine.

Each has a time limit, an environment of nothing but what the spec names and a PATH, and bounded output; it dies with
us (setpriv --pdeathsig), and with its whole process group when it takes too long. Its standard input is a file in
memory, so it cannot make us wait. Blocking: for a thread.
"""

import json
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from executor.network.config import VERSIONS, field
from executor.network.errors import CniError

SECONDS: Final = 60.0
"""A DHCP server takes its time; so does whoever holds the lock of iptables."""
OUTPUT_LIMIT: Final = 1 << 20
PROGRAMS: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PLACES: Final = ("/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni")
"""Debian's, upstream's and Fedora's."""
PACKAGE: Final = "containernetworking-plugins"
_PACKAGED: Final = ("bandwidth", "bridge", "dhcp", "firewall", "host-device", "host-local", "ipvlan", "loopback",
                    "macvlan", "portmap", "ptp", "sbr", "static", "tuning", "vlan", "vrf")  # fmt: skip
_IGNORE: Final = "IgnoreUnknown"
_SETPRIV: Final = "setpriv"
_VERSION_SECONDS: Final = 10.0
_PIECE: Final = 1 << 16
_SHOWN: Final = 400


class PluginFailed(CniError):
    """The plugin has run, and says what is wrong. code: CNI's, or 0."""

    def __init__(self, text: str, code: int = 0) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True)
class Call:
    """One run of a plugin, but for its configuration. netns: a path; "" when the namespace is gone."""

    command: str
    container: str
    netns: str
    interface: str
    args: str
    places: tuple[str, ...]

    def environment(self, version: str) -> dict[str, str]:
        """All that the plugin gets to see of ours."""
        made = {
            "PATH": PROGRAMS,
            "CNI_COMMAND": self.command,
            "CNI_CONTAINERID": self.container,
            "CNI_NETNS": self.netns,
            "CNI_IFNAME": self.interface,
            "CNI_ARGS": _lenient(self.args),
            "CNI_PATH": ":".join(self.places),
        }
        return (
            {**made, "CNI_VERSION": version} if version in VERSIONS[:2] else made
        )  # as rkt; later specs have none


def _lenient(args: str) -> str:
    """Of a plugin and the ones that it runs each knows some arguments, and refuses the others unless it is told not to
    (CNI's conventions, IgnoreUnknown)."""
    if not args or any(one.partition("=")[0] == _IGNORE for one in args.split(";")):
        return args
    return f"{_IGNORE}=1;{args}"


class Stopper:
    """Ends what is being run, and all that is run later, from another thread."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe2(os.O_CLOEXEC)

    def fileno(self) -> int:
        return self._reader

    def stop(self) -> None:
        os.write(self._writer, b"x")

    def close(self) -> None:
        os.close(self._reader)
        os.close(self._writer)


def find(kind: str, places: Sequence[str]) -> str:
    """The program of a plugin. Raises CniError."""
    for place in places:
        path = f"{place}/{kind}"
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    how = f": install {PACKAGE}" if kind in _PACKAGED else ""
    raise CniError(f'could not find plugin "{kind}" in {", ".join(places)}{how}')


def run(
    path: str,
    call: Call,
    conf: str,
    version: str,
    *,
    seconds: float = SECONDS,
    stopper: Stopper | None = None,
) -> bytes:
    """What it says on standard output. conf: JSON. Raises CniError, PluginFailed."""
    name = path.rpartition("/")[2]
    config = os.memfd_create("cni", os.MFD_CLOEXEC)
    try:
        os.write(config, conf.encode())
        os.lseek(config, 0, os.SEEK_SET)
        try:
            process = subprocess.Popen(
                [_SETPRIV, "--pdeathsig", "KILL", path], stdin=config, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                env=call.environment(version), cwd="/", start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise CniError(f"{name} {call.command}: {error.filename}: {error.strerror}") from None
    finally:
        os.close(config)
    with process:
        try:
            out, err = _listen(process, seconds, stopper)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)  # not waited for yet, so the group is still its own
            if isinstance(error, CniError):
                raise CniError(f"{name} {call.command}: {error}") from None
            raise
    if process.returncode:
        raise _failure(f"{name} {call.command}", process.returncode, out, err)
    return out


def _listen(
    process: "subprocess.Popen[bytes]", seconds: float, stopper: Stopper | None
) -> tuple[bytes, bytes]:
    """Both outputs, when it has ended: what it has left running is not waited for. Raises CniError."""
    assert process.stdout is not None
    assert process.stderr is not None
    parts: dict[int, list[bytes]] = {process.stdout.fileno(): [], process.stderr.fileno(): []}
    deadline, size = time.monotonic() + seconds, 0
    ended = os.pidfd_open(process.pid)
    try:
        with selectors.DefaultSelector() as selector:
            for fd in (*parts, ended, *([stopper.fileno()] if stopper else [])):
                selector.register(fd, selectors.EVENT_READ)
            while True:
                ready = [key.fd for key, _ in selector.select(max(0.0, deadline - time.monotonic()))]
                if stopper is not None and stopper.fileno() in ready:
                    raise CniError("stopped")
                if not ready:
                    raise CniError(f"it has not answered after {seconds:.0f} s, and was killed")
                for fd in set(ready) & set(parts):
                    piece = os.read(fd, _PIECE)
                    size += len(piece)
                    if size > OUTPUT_LIMIT:
                        raise CniError(f"it says more than {OUTPUT_LIMIT} bytes, and was killed")
                    if piece:
                        parts[fd].append(piece)
                    else:
                        selector.unregister(fd)
                if ready == [ended]:  # and nothing is left to be read
                    break
    finally:
        os.close(ended)
    out, err = (b"".join(one) for one in parts.values())
    return out, err


def _failure(what: str, code: int, out: bytes, err: bytes) -> PluginFailed:
    """The error that the plugin says, or what else is known."""
    try:
        said = json.loads(out)
        text = str(field(said, "msg") or "")
        details = str(field(said, "details") or "")
        number = int(field(said, "code") or 0)
    except (ValueError, TypeError, AttributeError, RecursionError):
        text, details, number = "", "", 0
    if text:
        return PluginFailed(_line(f"{text}; {details}" if details else text), number)
    how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
    last = _line((err or out).decode(errors="replace"))
    return PluginFailed(f"{what}: {how}{f': {last}' if last else ''}")


def _line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…"


def versions(path: str, places: Sequence[str]) -> list[str]:
    """Those that a plugin says it knows. Raises CniError."""
    call = Call("VERSION", "", "", "", "", tuple(places))
    conf: dict[str, Any] = {"cniVersion": VERSIONS[-1]}
    answer = run(path, call, json.dumps(conf), VERSIONS[-1], seconds=_VERSION_SECONDS)
    try:
        return [str(one) for one in field(json.loads(answer), "supportedVersions") or ()]
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise CniError(f"{path}: it does not say which versions of CNI it knows") from None
