"""What the runner needs from others, as it needs it: stage0's image store and stage1's launcher.

The real ones are `executor.stage0.store.ImageStore` and `executor.pods.launcher.Launcher`.
"""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from executor.pods.enforcing import NO_FACTS, Facts
from executor.pods.env import Node
from executor.pods.gpus import Gpus
from executor.pods.launcher import AppExit, Exec
from executor.pods.poddir import PodDirs
from executor.pods.rules import NO_RULES, Rules
from executor.pods.trash import Trash
from executor.stage0.config import ImageConfig
from executor.stage1.manifest import FLAVORS

PullPolicy = Literal["Always", "IfNotPresent", "Never"]


class Image(Protocol):
    """An image that is ready to run; layers: rendered trees, uppermost first."""

    @property
    def id(self) -> str: ...
    @property
    def digest(self) -> str: ...
    @property
    def config(self) -> ImageConfig: ...
    @property
    def layers(self) -> tuple[Path, ...]: ...


class Hold(Protocol):
    """Keeps something for as long as it is not closed."""

    def close(self) -> None: ...


class Images(Protocol):
    """Raises `executor.stage0.errors.ImageError`. hold blocks, shortly; what is held is not collected. hold_again does
    not, and holds nothing that is not held here already."""

    async def pull(
        self,
        ref: str,
        policy: PullPolicy,
        *,
        progress: Callable[[str], None] | None = None,
        credentials: Mapping[str, tuple[str, str]] | None = None,
    ) -> Image: ...
    def hold(self, image: Any) -> Hold: ...
    def hold_again(self, image: Any) -> Hold | None: ...


class Sandbox(Protocol):
    """Raises `executor.pods.launcher.LaunchError`. pid: of the pod's init, on the host: its network is the pod's,
    unless the sandbox is `netns.Dialling`.
    """

    @property
    def pid(self) -> int: ...
    async def start_app(self, app: str, *, stdin: int | None, stdout: int, stderr: int) -> int: ...
    async def start_terminal(self, app: str) -> tuple[int, int]: ...
    async def exec(
        self,
        app: str,
        argv: Sequence[str],
        *,
        streams: tuple[int, ...] = (),
        environment: Mapping[str, str] | None = None,
        directory: str = "",
    ) -> Exec: ...
    async def signal_app(self, app: str, signum: int) -> None: ...
    async def remove_app(self, app: str) -> None: ...
    async def stop(self) -> None: ...


@runtime_checkable
class Handling(Protocol):
    """A sandbox whose apps' event handlers are the runner's to start, because its stage1 does not by itself."""

    async def start_handler(self, app: str, argv: Sequence[str], *, stdout: int, stderr: int) -> int: ...


class RunPod(Protocol):
    """Start the sandbox of a pod directory. Raises LaunchError, also when there is no launcher."""

    def __call__(
        self, pod_dir: Path, on_exit: Callable[[AppExit], None], on_gone: Callable[[str], None]
    ) -> Awaitable[Sandbox]: ...


class Measure(Protocol):
    """Tell a TPM of a pod that is about to start: its directory, its uid, its images' digests by app.

    Raises OSError when the pod must not start.
    """

    def __call__(self, path: Path, uid: str, images: Mapping[str, str]) -> Awaitable[None]: ...


class Metadata(Protocol):
    """What the apps of a pod may ask about it (appc's metadata service). Pods are told apart by their directories'
    names."""

    def prepare(self, path: Path, pod: Mapping[str, Any], flavor: str) -> None:
        """Before a pod is run. Raises OSError."""

    async def open(self, path: Path, sandbox: Sandbox) -> None:
        """Its sandbox is there, no app runs yet. Raises LaunchError."""

    def close(self, name: str) -> None:
        """It has ended, or did not even start. As often as one likes."""


class NoMetadata:
    """There is no such service."""

    def prepare(self, path: Path, pod: Mapping[str, Any], flavor: str) -> None: ...
    async def open(self, path: Path, sandbox: Sandbox) -> None: ...
    def close(self, name: str) -> None: ...


async def not_measured(path: Path, uid: str, images: Mapping[str, str]) -> None:
    """There is no TPM."""


@dataclass(frozen=True)
class Machine:
    """All that pods share. flavors: those of stage1 that there are; gpus: of the machine; clock: Unix time.
    rules: what pods may have here; facts: what the node can enforce. want: asks the scheduler for the objects of a pod,
    by its name, if their digest is another; ask_seconds: how often, until they are there; refresh_seconds: how often
    then, while files are made of them. count_seconds: how often the disk that pods use is counted, if they may not use
    all of it. measure: each start of a sandbox waits for it. admit: given a v1 Pod and the handler of its RuntimeClass,
    raises ValueError if its flavor cannot run it. trash: where what dead pods leave is removed.
    """

    node: Callable[[], Node]
    images: Images
    dirs: PodDirs
    run_pod: RunPod
    default_flavor: str
    gpus: Gpus
    flavors: tuple[str, ...] = FLAVORS
    clock: Callable[[], float] = field(default=time.time)
    want: Callable[[str, str], None] = field(default=lambda name, digest: None)
    ask_seconds: float = 5.0
    refresh_seconds: float = 60.0
    count_seconds: float = 10.0
    rules: Rules = NO_RULES
    measure: Measure = not_measured
    metadata: Metadata = field(default_factory=NoMetadata)
    facts: Facts = NO_FACTS
    admit: Callable[[Mapping[str, Any], str], None] = field(default=lambda pod, handler: None)
    trash: Trash = field(default_factory=Trash)
