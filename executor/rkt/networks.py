"""A pod's networks, of `run` and `run-prepared`: chosen by --net, made when the pod's sandbox is there and none of its
apps, taken down when all of it has ended; and what is left of pods that were killed, by whoever comes next.

    choose ─▶ plan ─▶ <pod>/net ─▶ sandbox ─▶ ADD … ─▶ apps … ─▶ their end, the sandbox' end ─▶ DEL …
"""

import asyncio
import fcntl
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from executor.network import attachments, plugins, rates, record, selection
from executor.network.errors import CniError
from executor.network.info import RECORD
from executor.network.plan import Plan, newer, plan
from executor.network.plugins import Stopper
from executor.network.ports import Forward, forwards
from executor.network.rates import Rates
from executor.network.results import Result
from executor.pods.launcher import AppExit
from executor.pods.poddir import Phase, PodDir
from executor.pods.ports import RunPod, Sandbox
from executor.rkt.common import Globals
from executor.rkt.flags import Failure
from executor.rkt.pods import MUTABLE
from executor.stage1.isolators import ManifestError, quantity

_ENDED: Final = (Phase.RUN, Phase.EXITED, Phase.GARBAGE)
BANDWIDTH: Final = "resource/network-bandwidth"
_LOCK: Final = ".networks"
_TRIED: Final = "net/tried"
_FAILED: Final = "stage1: failed to setup network"
"""In rkt's words, which scripts look for."""


def planned(
    g: Globals,
    uuid: str,
    nets: dict[str, str],
    manifest: Mapping[str, Any],
    limits: Rates,
    *,
    activated: bool,
) -> Plan:
    """What is to be made. activated: sockets have come for ports that say so; these are not forwarded. Failure."""
    try:
        wanted = selection.choose(nets, g.config_dirs, lambda text: g.say(f"networking: {text}"))
        places = selection.places(g.config_dirs)
        if limits:
            wanted = [(newer(network, places), args) for network, args in wanted]
        mapped = forwards(_without_activated(manifest) if activated else manifest)
        made = plan(uuid, wanted, places, mapped, limits)
        made.check()
    except CniError as error:
        raise Failure(f"{_FAILED}: {error}") from None
    return made


def _without_activated(manifest: Mapping[str, Any]) -> dict[str, Any]:
    ports = [port for entry in manifest["apps"] for port in (entry.get("app") or {}).get("ports") or ()]
    names = {port["name"] for port in ports if port.get("socketActivated")}
    return {**manifest, "ports": [port for port in manifest.get("ports") or () if port["name"] not in names]}


def take_limits(g: Globals, manifest: dict[str, Any]) -> Rates:
    """Take out of a manifest what it says of the network's use (appc ace.md, resource/network-bandwidth) and a plugin
    can enforce: of the pod, or of its only app. Failure."""
    bodies = [manifest, *(entry["app"] for entry in manifest["apps"][:1] if len(manifest["apps"]) == 1)]
    bodies = [body for body in bodies if any(one["name"] == BANDWIDTH for one in body.get("isolators") or ())]
    found = Rates()
    if not bodies or MUTABLE in (n["name"] for n in manifest["annotations"] if n["value"] == "true"):
        return found
    try:
        plugins.find(rates.PLUGIN, selection.places(g.config_dirs))
    except CniError:
        return found  # it stays where it is, and is told of
    for body in bodies:
        for one in body["isolators"]:
            found = found.under(_rates(one["value"])) if one["name"] == BANDWIDTH else found
        body["isolators"] = [one for one in body["isolators"] if one["name"] != BANDWIDTH]
    return found


def _rates(value: Mapping[str, Any]) -> Rates:
    """limit: of both directions, or with `gantry.io/ingress` of what goes out. Failure."""
    try:
        out, into = (quantity(value.get(key) or 0) for key in ("limit", "gantry.io/ingress"))
    except ManifestError as error:
        raise Failure(f"isolator {BANDWIDTH}: {error}") from None
    if value.get("default") is not True or "request" in value or not (out or into):
        raise Failure(f"isolator {BANDWIDTH}: needs default: true and a limit, and no request")
    return Rates(into or out, out)


class Networks:
    """Of one pod that we run. dns: a network may say what is in its resolv.conf."""

    def __init__(self, g: Globals, pod: PodDir, made: Plan, *, dns: bool) -> None:
        self._g, self._pod, self._plan, self._dns = g, pod, made, dns
        self._netns = -1
        self.supplied_dns = False
        """A network has."""

    def describe(self) -> list[str]:
        """What is to be run, in order."""
        return self._plan.describe()

    def around(self, run: RunPod) -> RunPod:
        """How the pod is run with its networks. In flavor kvm it runs a machine in the pod's place, below it."""

        async def run_pod(
            pod_dir: Path, on_exit: Callable[[AppExit], None], on_gone: Callable[[str], None]
        ) -> Sandbox:
            sandbox = await run(pod_dir, on_exit, on_gone)
            async with AsyncExitStack() as undo:
                undo.push_async_callback(sandbox.stop)
                if self._pod.path in (pod_dir, *pod_dir.parents):
                    await self._attach(sandbox.pid)
                undo.pop_all()
            return sandbox

        return run_pod

    async def _attach(self, pid: int) -> None:
        """Failure. When it is cancelled, nothing runs any more."""
        stopper = Stopper()
        work = asyncio.ensure_future(asyncio.to_thread(self._make, pid, stopper))
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            stopper.stop()
            await asyncio.wait([work])
            raise
        except CniError as error:
            raise Failure(f"{_FAILED}: {error}") from None
        finally:
            stopper.close()

    def _make(self, pid: int, stopper: Stopper) -> None:
        with _alone(self._g.pods):
            sweep(self._g)
            self._refuse_taken()
            record.save(self._pod.path, self._plan)
        self._netns = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        if os.path.samestat(os.fstat(self._netns), os.stat("/proc/self/ns/net")):
            raise CniError("the pod has died")  # and its pid is somebody else's
        more = {"say": self._say} if self._g.debug else {}
        found = attachments.attach(self._pod.path, self._plan, self._place(), stopper=stopper, **more)
        names = [one.network for one in self._plan.attachments]
        self._write_dns(dict(zip(names, found, strict=True)))

    def _say(self, text: str) -> None:
        self._g.say(f"networking: {text}")

    def _place(self) -> str:
        """Of the pod's namespace: by a descriptor of ours, which cannot be another process' by now, as a pid can."""
        return f"/proc/{os.getpid()}/fd/{self._netns}" if self._netns >= 0 else ""

    def _write_dns(self, found: Mapping[str, Result]) -> None:
        """The first network that says something of name servers is believed (rkt networking/podenv.go)."""
        for name, result in found.items():
            if not result.dns or not self._dns:
                continue
            if self.supplied_dns:
                self._g.say(
                    f"Warning: network {name} plugin specified DNS configuration, but DNS already supplied"
                )
                continue
            place = self._pod.path / "etc/resolv.conf"
            place.parent.mkdir(exist_ok=True)
            place.write_text(result.dns.text(f"Generated by gantry rkt from network {name}"))
            self.supplied_dns = True

    def _refuse_taken(self) -> None:
        """Ports of this machine that lead into another pod already. Raises CniError."""
        for pod, other in _recorded(self._g):
            for one in self._plan.forwards if pod != self._pod.path else ():
                if (taken := _conflict(one, other)) is not None:
                    raise CniError(f"port {one}: pod {pod.name} has {taken} already")

    async def close(self) -> None:
        """Nothing of the pod runs any more."""
        try:
            await asyncio.to_thread(attachments.detach, self._pod.path, self._place(), say=self._say)
        except (CniError, OSError) as error:
            self._say(f"{error}; `gc` tries again")
        finally:
            if self._netns >= 0:
                os.close(self._netns)
                self._netns = -1


def _conflict(one: Forward, other: Plan) -> Forward | None:
    return next((taken for taken in other.forwards if one.conflicts(taken)), None)


@contextmanager
def _alone(pods: Path) -> Iterator[None]:
    """Who else looks at the pods' ports waits."""
    fd = os.open(pods / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _recorded(g: Globals) -> Iterator[tuple[Path, Plan]]:
    """Pods that have networks, or have left some."""
    for phase in _ENDED:
        for path in (g.pods / phase).glob(f"*/{RECORD}"):
            pod = path.parents[1]
            with suppress(CniError, OSError):  # going, or somebody else's to tell of
                if (made := record.load(pod)) is not None:
                    yield pod, made


def sweep(g: Globals) -> None:
    """Take down the networks of pods that were killed. What goes wrong is told, and left to `gc` from then on: who
    starts a pod is not to wait for others' plugins again and again."""
    for pod, _ in _recorded(g):
        if (pod / _TRIED).exists():
            continue
        try:
            taken = PodDir(g.pods, pod.name, Phase(pod.parent.name))
        except (OSError, ValueError):  # it runs, or somebody else works on it
            continue
        try:
            release(g, pod)
        except Failure as error:
            (pod / _TRIED).touch()
            g.say(f"pod {pod.name}: {error}")
        finally:
            os.close(taken.lock)


def release(g: Globals, pod: Path) -> None:
    """Take down what a pod that has ended has left; nothing when it has left nothing. Failure."""
    try:
        attachments.detach(pod, "", say=lambda text: g.say(f"networking: {text}"))
    except (CniError, OSError) as error:
        raise Failure(f"networking: {error}") from None
