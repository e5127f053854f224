"""The files that a pod's volumes get from the API: made, written into the pod's own file systems in memory, renewed."""

import logging
from collections.abc import Mapping
from typing import Any

from executor.pods import atomic, ownership
from executor.pods.env import ConfigError, Node
from executor.pods.hostpath import VolumeError
from executor.pods.objects import MissingError, Objects
from executor.pods.projections import File, Payload, is_projection, payload
from executor.stage1.podfiles import memory_volume

log = logging.getLogger(__name__)


class Files:
    """Of one pod. Everything is by the name of the volume."""

    def __init__(self, pod: Mapping[str, Any], node: Node) -> None:
        self._pod = pod
        self._node = node
        self._shared = (pod["spec"].get("securityContext") or {}).get("fsGroup") is not None
        self._volumes = [one for one in pod["spec"].get("volumes") or () if is_projection(one)]
        self._written: dict[str, Payload] = {}

    @property
    def may_change(self) -> bool:
        """Whether there are any that come from ConfigMaps or Secrets."""
        sources = [
            one for volume in self._volumes for one in (volume.get("projected") or {}).get("sources") or ()
        ]
        return any(kind in one for one in (*self._volumes, *sources) for kind in ("configMap", "secret"))

    def make(self, objects: Objects) -> dict[str, Payload]:
        """All files. Raises VolumeError for what is not there."""
        found = {}
        for volume in self._volumes:
            try:
                found[volume["name"]] = self._payload(volume, objects)
            except (MissingError, ConfigError) as error:
                name = volume["name"]
                raise VolumeError(f'MountVolume.SetUp failed for volume "{name}" : {error}') from None
        return found

    def _payload(self, volume: Mapping[str, Any], objects: Objects) -> Payload:
        """With fsGroup the volume is its group's, so its members may read all of it."""
        files = payload(volume, objects, self._pod, self._node)
        if not self._shared:
            return files
        return {path: File(one.content, one.mode | ownership.READ) for path, one in files.items()}

    def write(self, init: int, files: Mapping[str, Payload]) -> None:
        """Before any container has mounted them. init: the pod's. Raises VolumeError."""
        for name, content in files.items():
            try:
                atomic.write(memory_volume(init, name), content)
            except OSError as error:
                raise VolumeError(f'files of volume "{name}": {error.strerror}') from None
        self._written = dict(files)

    def renew(self, init: int, objects: Objects) -> None:
        """What cannot be had any more stays as it was, as the kubelet does it."""
        for volume in self._volumes:
            name = volume["name"]
            try:
                files = self._payload(volume, objects)
                if files != self._written.get(name):
                    atomic.write(memory_volume(init, name), files)
                    self._written[name] = files
            except (MissingError, ConfigError, OSError) as error:
                log.info(
                    "volume %s of pod %s stays as it was: %s", name, self._pod["metadata"]["name"], error
                )
