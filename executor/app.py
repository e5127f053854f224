"""`gantry executor`: puts the executor together and runs it. The only place that knows all its parts.

agent ◀─▶ driver ◀─▶ PodExecutor ◀─▶ Pods ─▶ runner ─▶ image store, launcher
                                      ▲
scheduler ─▶ node server ─────────────┘  logs
"""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import uvloop
from aiohttp import web

from executor.config import Settings, parser, settings
from executor.contract.stages import ByFlavor, Stages
from executor.kvm.machine import KVM, check_pod
from executor.kvm.machines import Machines
from executor.mesos import PodExecutor
from executor.metadata.images import store_manifests
from executor.metadata.keys import Keys
from executor.metadata.service import Service
from executor.pods import apparmor
from executor.pods.ceiling import Ceiling
from executor.pods.enforcing import Facts, facts
from executor.pods.gpus import Gpus, Host
from executor.pods.keeper import LauncherKeeper
from executor.pods.manifest import choose_flavor
from executor.pods.poddir import PodDirs
from executor.pods.pods import Pods
from executor.pods.ports import Machine, not_measured
from executor.server.app import Tokens, make_app
from executor.stage0 import settings as image_settings
from executor.stage0.store import ImageStore
from executor.stage1.lsm import APPARMOR
from executor.stage1.manifest import FLAVORS
from executor.tpm.measure import Measurer
from executor.tpm.program import Parts
from shared.mesos.executor_driver import ExecutorDriver

log = logging.getLogger(__name__)

MARGIN: Final = 0.2
"""Of the agent's grace, what is kept for killing, collecting and reporting; at most a second."""
CLOSE_SECONDS: Final = 2.0


class _Stop:
    """The one reason to stop: the first that comes."""

    def __init__(self) -> None:
        self.called = asyncio.Event()
        self.failed = False

    def __call__(self, reason: str, failed: bool) -> None:
        if not self.called.is_set():
            (log.error if failed else log.info)("stopping: %s", reason)
            self.failed = failed
            self.called.set()


def main(argv: list[str]) -> int:
    """`gantry executor`. Returns the exit code."""
    args = parser().parse_args(argv)
    logging.basicConfig(
        level=args.log_level.upper(),
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(run(settings(args, os.environ), os.environ))
    except (ValueError, OSError) as error:
        print(f"gantry: error: {error}", file=sys.stderr)  # noqa: T201
        return 1


@dataclass(frozen=True)
class _Node:
    """What runs pods on this machine."""

    images: ImageStore
    dirs: PodDirs
    stages: Stages
    keeper: LauncherKeeper
    metadata: Service
    machines: Machines
    measurer: Measurer | None
    machine: Machine


async def run(config: Settings, environ: Mapping[str, str]) -> int:
    """Serve until the agent, a signal or an error ends it; returns the exit code. Raises OSError, ValueError."""
    stop, tokens = _Stop(), Tokens()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(
            signum, stop, f"{signal.Signals(signum).name} came", False
        )
    executor = PodExecutor(config.ip, tokens, stop, config.idle_timeout)
    executor.sandbox = Path(environ.get("MESOS_SANDBOX", "."))
    driver = ExecutorDriver(executor, environ)
    executor.ceiling = Ceiling.find(Path(environ.get("MESOS_DIRECTORY", executor.sandbox)).name)
    node = await _node(config, executor)
    pods = Pods(node.machine, executor.report)
    background: list[asyncio.Task[None]] = []
    server = web.AppRunner(make_app(pods, tokens), access_log=None, handler_cancellation=True)
    try:
        address = await _serve(server, config)
        executor.attach(pods, driver, address)
        background.append(asyncio.create_task(node.images.collect_forever(), name="image collection"))
        background.append(
            asyncio.create_task(
                node.machines.ahead(expected=config.flavor == KVM), name="templates of machines"
            )
        )
        if executor.ceiling is not None:
            background.append(asyncio.create_task(executor.ceiling.follow(), name="memory of the pods"))
        if node.measurer is not None:
            background.append(asyncio.create_task(node.measurer.check(), name="TPM"))
        node.keeper.start()
        await node.stages.load()
        for name in await asyncio.to_thread(node.dirs.collect):
            log.info("removed pod directory %s, left by an executor that is gone", name)
        await driver.start()
        await stop.called.wait()
        grace = driver.grace_shutdown_period
        await pods.shutdown(max(0.0, grace - min(1.0, grace * MARGIN)), "the executor shuts down")
        await driver.stop()
    finally:
        for task in background:
            task.cancel()
        await node.keeper.close()
        await pods.settle()  # the logs stay in the sandbox, for whoever wants to know why
        await node.metadata.shut()
        await server.cleanup()
    return 1 if stop.failed else 0


async def _node(config: Settings, executor: PodExecutor) -> _Node:
    """Nothing of it runs yet. Raises OSError, ValueError."""
    images_are = image_settings.load(config.image_config)
    images = ImageStore(config.state_dir, local_images=config.local_images, settings=images_are)
    dirs = PodDirs(config.pods_dir, lambda path: stages.dispose(path), spread=True)
    memory = None if executor.ceiling is None else executor.ceiling.pods
    stages = Stages(config.state_dir, images_are, dirs.lock, local_images=config.local_images, memory=memory)
    dirs.open()
    keeper = LauncherKeeper(config.state_dir / "points", memory)
    machines = Machines(keeper.run_pod, config.state_dir, config.kvm_kernel, templates=config.kvm_templates)
    metadata = Service(
        Keys(config.metadata_key or config.state_dir / "metadata" / "key", make=config.metadata_key is None),
        store_manifests(config.state_dir),
    )
    measurer = None if config.tpm is None else Measurer(config.tpm, parts=_parts_of(machines, stages))
    flavors = (*FLAVORS, KVM, *stages.names)
    machine = Machine(
        lambda: executor.node,
        images,
        dirs,
        ByFlavor(machines, dict.fromkeys(stages.names, stages.run_pod)),
        config.flavor,
        Gpus(Host(config.device_dir), config.state_dir / "gpus"),
        flavors,
        rules=config.rules,
        want=executor.want,
        facts=await _facts(config),
        measure=not_measured if measurer is None else measurer.measure,
        metadata=metadata,
        admit=lambda pod, handler: _admit(stages, choose_flavor(pod, handler, config.flavor, flavors), pod),
    )
    return _Node(images, dirs, stages, keeper, metadata, machines, measurer, machine)


def _parts_of(machines: Machines, stages: Stages) -> Callable[[str], Awaitable[Parts | None]]:
    """What the TPM is told of a flavor that is more than files of Gantry's; None for those nobody knows."""

    async def parts(flavor: str) -> Parts | None:
        if flavor == KVM:
            kvm = await machines.equipment()
            files = (kvm.tools.qemu, kvm.tools.virtiofsd, kvm.boot.kernel, kvm.boot.root)
            return Parts(tuple(map(str, files)))
        image = await stages.identity(flavor)
        return None if image is None else Parts(image=image)

    return parts


async def _facts(config: Settings) -> Facts:
    """What the node can enforce; its AppArmor profile is loaded if it has none."""
    found = facts(config.pods_dir)
    if found.labels.get(APPARMOR):
        return found
    return replace(found, default_profile=await apparmor.has_default())


def _admit(stages: Stages, flavor: str, pod: Mapping[str, Any]) -> None:
    """Raises ValueError for what a flavor cannot run."""
    stages.admit(flavor, pod)
    if flavor == KVM:
        check_pod(pod)


async def _serve(server: web.AppRunner, config: Settings) -> str:
    """Start the node server; returns host:port as others reach it. Raises OSError that says what to do."""
    await server.setup()
    site = web.TCPSite(server, config.listen_host, config.listen_port, shutdown_timeout=CLOSE_SECONDS)
    try:
        await site.start()
    except OSError as error:
        where = f"{config.listen_host}:{config.listen_port}"
        raise OSError(f"--node-listen {where}: {error.strerror}; choose another port, or 0") from None
    port = server.addresses[0][1]
    address = f"[{config.ip}]:{port}" if ":" in config.ip else f"{config.ip}:{port}"
    log.info("node server on %s", address)
    return address
