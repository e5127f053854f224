"""`run` and `run-prepared`: from a command line, or a pod that was prepared, to a pod in the foreground.

The process holds the pod's lock, and the launcher with it: whatever is killed, the lock is free when the pod is dead,
and not before. 254 for what goes wrong before it runs; else `foreground` says how it ended.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from executor.pods.launcher import Launcher, LaunchError
from executor.pods.poddir import Phase, PodDir
from executor.rkt import measured, notify, prepare
from executor.rkt.common import Globals, need_root, words
from executor.rkt.flags import Failure
from executor.rkt.foreground import Foreground
from executor.rkt.inside import keep_image_files
from executor.rkt.isolators import skip
from executor.rkt.podflags import CONTAINED, FLY, PodFlags, sockets
from executor.rkt.podmanifest import KVM, flavor_of_pod, settle, unrestrict
from executor.rkt.pods import UNVERIFIED, State, find
from executor.rkt.prepare import Making
from executor.rkt.stage1 import FOREIGN

if TYPE_CHECKING:
    from executor.rkt.networks import Networks

_PRINT_PLAN: Final = "print what would be done for the pod, in order, and do nothing"


def main(g: Globals, args: list[str]) -> int:
    """`run IMAGE…`."""
    flags = g.flags("[flags] IMAGE [flags] [-- ARGS… [---]] …")
    flags.text("uuid-file-save", "", "write the pod's UUID to this file")
    flags.switch("print-plan", _PRINT_PLAN)
    asked = PodFlags.add(flags, makes=True, runs=True)
    flags.parse(args, asked.apps.word, asked.apps.argument)
    need_root()
    asked.check(g)
    flavor = asked.flavor(g)
    asked.check_running(g, len(asked.apps.apps), flavor)
    if flags.is_on("print-plan"):
        from executor.rkt import plans

        plans.check(flavor)
        making = prepare.new(g)
        ready = prepare.fill(g, asked, making)
        return asyncio.run(plans.show(g, making, ready, lambda: _told(g, asked, making)))
    making = prepare.new(g)
    save_uuid(making, flags.values["uuid-file-save"])
    return asyncio.run(_how(flavor)(g, asked, making, prepare.fill(g, asked, making)))


def _how(flavor: str) -> Callable[..., Coroutine[Any, Any, int]]:
    """How pods of this flavor are run."""
    if flavor != FOREIGN:
        return execute
    from executor.rkt import foreign

    return foreign.execute


def save_uuid(making: Making, path: str) -> None:
    """`--uuid-file-save`, if it was given. Failure, and then no pod."""
    try:
        if path:
            Path(path).write_text(making.pod.name)
    except OSError as error:
        making.drop()
        raise Failure(f"error saving pod UUID to file: {path}: {error.strerror}") from None


def prepared(g: Globals, args: list[str]) -> int:
    """`run-prepared UUID`."""
    from executor.rkt.end import take

    flags = g.flags("[flags] UUID")
    flags.switch("print-plan", _PRINT_PLAN)
    asked = PodFlags.add(flags, makes=False, runs=True)
    found = words(flags, args)
    need_root()
    if len(found) != 1:
        raise Failure("name a pod by its UUID")
    pod = find(g.pods, found[0])
    if pod.state is not State.PREPARED:
        raise Failure(f'pod "{pod.uuid}" is not prepared')
    flavor = flavor_of_pod(pod.manifest())
    asked.check_running(g, len(pod.apps()), flavor)
    if flags.is_on("print-plan"):
        from executor.rkt import plans

        plans.check(flavor)
        copy, ready = plans.copy(g, pod)
        return asyncio.run(plans.show(g, copy, ready, lambda: _told(g, asked, copy), pod.uuid))
    try:
        making = Making(take(pod), pod.manifest())
    except FileNotFoundError:
        raise Failure(f'pod "{pod.uuid}" is not prepared any more') from None
    return asyncio.run(_how(flavor)(g, asked, making, _hold(g, making)))


async def _hold(g: Globals, making: Making) -> None:
    """Take the images of a prepared pod again: whoever prepared it holds them no more. Failure when one is gone."""
    from executor.rkt.lookup import Finder

    if (making.pod.path / UNVERIFIED).exists():
        g.insecure.add("image")  # said when it was prepared
    finder = Finder(g, "never")
    for entry in making.manifest["apps"]:
        image, store = await finder.find(str(entry["image"]["id"]))
        pin = store.hold(image)
        making.holds.callback(pin.close)
        making.digests[str(entry["name"])] = image.digest


async def execute(
    g: Globals,
    asked: PodFlags,
    making: Making,
    ready: Coroutine[Any, Any, None],
    kind: type[Foreground] = Foreground,
) -> int:
    """Make the rest while the launcher starts, then run. Failure."""
    tpm = measured.settings(g, asked.flags)
    nets: Networks | None = None
    launching = asyncio.create_task(_launch(making.pod))
    launcher: Launcher | None = None
    await asyncio.sleep(0)  # it is started now, in parallel with what we import
    try:
        with making.or_nothing():
            await ready
            nets = _settle(g, asked, making)
            launcher = await launching
            if tpm is not None:
                await measured.measure(g, tpm, launcher, making.pod.path, making.digests)
            making.pod.move(Phase.RUN)
        with making.holds:
            pod = kind(g, making, launcher, interactive=asked.flags.is_on("interactive"), tpm=tpm)
            pod.networks, pod.image_files = nets, _image_files(asked, pod.manifest)
            if asked.flags.is_on("mds-register"):
                await _register(asked, pod)
            return await pod.run()
    except LaunchError as error:
        raise Failure(str(error)) from None
    except OSError as error:
        raise Failure(f"{error.filename or making.pod.path}: {error.strerror}") from None
    finally:
        if launcher is None:
            with suppress(LaunchError, OSError):
                launcher = await launching
        if launcher is not None:
            await launcher.close()


async def _register(asked: PodFlags, pod: Foreground) -> None:
    """With the metadata service. Failure."""
    from executor.rkt import metadata

    host = asked.network == "host" or flavor_of_pod(pod.manifest) == "fly"
    pod.registration = await asyncio.to_thread(metadata.register, pod.pod.path, host_network=host)


def _told(g: Globals, asked: PodFlags, making: Making) -> list[str]:
    """As `_settle`; what would be done for its networks. Failure."""
    nets = _settle(g, asked, making)
    return [] if nets is None else nets.describe()


def _networks(g: Globals, asked: PodFlags, making: Making) -> "Networks | None":
    """Those of the pod; None for none. What they enforce is taken out of the manifest. Failure."""
    if asked.network != CONTAINED or flavor_of_pod(making.manifest) == FLY:
        for port in making.manifest.get("ports") or ():
            g.say(
                f"port {port['name']}: {port['hostPort']} is not forwarded: the pod has no network for that"
            )
        return None
    from executor.rkt.networks import Networks, planned, take_limits

    limits = take_limits(g, making.manifest)
    made = planned(g, making.pod.name, asked.nets, making.manifest, limits, activated=bool(sockets()))
    dns = asked.image_files().get("resolv.conf") is False
    if dns:  # what a network says is written over it
        (making.pod.path / "etc/resolv.conf").write_text(_resolv_conf())
    return Networks(g, making.pod, made, dns=dns)


def _resolv_conf() -> str:
    try:
        return Path("/etc/resolv.conf").read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return ""


def _image_files(asked: PodFlags, manifest: dict[str, Any]) -> dict[str, bool]:
    """As PodFlags.image_files; but what a network says of name servers reaches a machine before it is known whether it
    says something: there the image's own is not seen."""
    found = asked.image_files()
    if flavor_of_pod(manifest) == KVM and found.get("resolv.conf") is False:
        del found["resolv.conf"]
    return found


async def _launch(pod: PodDir) -> Launcher:
    return await Launcher.start(spares=0, hold=(pod.lock,))


def _settle(g: Globals, asked: PodFlags, making: Making) -> "Networks | None":
    """Write down how the pod is run: network, host name, files of /etc, what is not insisted on. Its networks, which
    are to be made. Failure."""
    etc = making.pod.path / "etc"
    etc.mkdir(exist_ok=True)
    host = asked.network == "host"
    hostname = asked.flags.values["hostname"] or f"rkt-{making.pod.name}"
    settle(making.manifest, hostname="" if host else hostname, host_network="true" if host else "")
    if asked.flags.values["ipc"] == "parent" and flavor_of_pod(making.manifest) == "linux":
        settle(making.manifest, host_ipc="true")
    unrestrict(making.manifest, g.insecure, flavor_of_pod(making.manifest))
    nets = _networks(g, asked, making)
    making.manifest = skip(making.manifest, flavor_of_pod(making.manifest), making.pod.path)
    notify.add(making.manifest, making.pod.path, g.pods / Phase.RUN / making.pod.name)
    for entry in making.manifest["apps"]:
        layers = (making.pod.path / "appsinfo" / entry["name"] / "lower").read_text().splitlines()
        keep_image_files(entry, layers, _image_files(asked, making.manifest))
    making.pod.write_manifest(making.manifest)
    for name, text in asked.etc(hostname).items():
        (etc / name).write_text(text)
    return nets
