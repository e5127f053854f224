"""What an app needs before its pod can be laid out: its image, held, and its entry in the pod's manifest."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from executor.pods import manifest, users
from executor.pods.containers import pull_policy
from executor.pods.core import events as ev
from executor.pods.env import ConfigError, MissingConfigError
from executor.pods.holds import Holds
from executor.pods.ports import Image, Machine
from executor.pods.sockets import Port, ports_of
from executor.pods.supplies import Supplies
from executor.stage0.errors import ImageError


@dataclass(frozen=True)
class Ready:
    """entry: of `apps` in the pod's manifest."""

    entry: dict[str, Any]
    image: Image
    stop_signal: int

    @property
    def handlers(self) -> Mapping[str, list[str]]:
        """The image's event handlers, by name."""
        return manifest.event_handlers(self.image.config)

    @property
    def ports(self) -> list[Port]:
        """That it finds open when it is started."""
        return ports_of(str(self.entry["name"]), self.entry["app"])


class Preparing:
    """The apps of one pod. supplies: as they are by now. missing: called when something they use is not there yet."""

    def __init__(
        self,
        pod: Mapping[str, Any],
        level: manifest.PodLevel,
        machine: Machine,
        supplies: Callable[[], Supplies],
        dispatch: Callable[[ev.Event], None],
        missing: Callable[[], None],
    ) -> None:
        self._pod = pod
        self._level = level
        self._machine = machine
        self._supplies = supplies
        self._dispatch = dispatch
        self._missing = missing
        self._holds = Holds(machine.images)
        self.ready: dict[str, Ready] = {}

    async def prepare(self, container: Mapping[str, Any]) -> None:
        """Tells of the pull, and in the end of success or failure, by events."""
        app = container["name"]
        clock, began = self._machine.clock, self._machine.clock()
        pulled = False

        def progress(_: str) -> None:
            nonlocal pulled
            if not pulled:
                pulled = True
                self._dispatch(ev.Pulling(app))

        try:
            image = await self._machine.images.pull(
                container["image"],
                pull_policy(container),
                progress=progress,
                credentials=self._supplies().credentials or None,
            )
            await self._holds.take(app, image)
            self.ready[app] = self._make(container, image)
        except (ImageError, ConfigError) as error:
            if isinstance(error, MissingConfigError):
                self._missing()
            self._dispatch(ev.PrepareFailed(app, error.reason, str(error)))
        except OSError as error:
            self._dispatch(ev.PrepareFailed(app, "CreateContainerError", str(error)))
        else:
            took = clock() - began if pulled else None
            self._dispatch(ev.Prepared(app, container["image"], image.digest, took))

    def _make(self, container: Mapping[str, Any], image: Image) -> Ready:
        config = image.config
        identity = users.resolve(container, self._pod, config.user, config.supplementary_gids, image.layers)
        objects = self._supplies().objects
        entry = manifest.app_entry(self._level, container, image.id, config, identity, objects)
        return Ready(entry, image, manifest.stop_signal(config.stop_signal))

    def close(self) -> None:
        """Let go of the images."""
        self._holds.close()
