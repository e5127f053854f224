"""What an agent remembers of its resources: dynamic reservations and persistent volumes, beyond its own id.

    <work_dir>/meta/resources/resources.info        what the master said last
    <work_dir>/volumes/roles/<role>/<id>            a volume's data; the role's slashes become spaces

A volume that a task uses is a symbolic link in its executor's sandbox. As in Mesos without a filesystem isolator of
its own, container paths with a slash get no link.

Source: Mesos src/slave/slave.cpp (`checkpointResourceState`, `syncCheckpointedResources`),
src/slave/containerizer/mesos/isolators/filesystem/posix.cpp (`update`).
"""

import logging
import os
import shutil
from pathlib import Path

from local.agent import checkpoint
from local.agent.checkpoint import CheckpointError
from local.reservations import ConversionError, restored, volume_path, volumes
from local.wire.proto import Json
from shared.mesos.resources import Resources

log = logging.getLogger(__name__)


class VolumeError(Exception):
    """A volume cannot be linked into a sandbox; one line."""


class Memory:
    """The reservations and volumes of one work directory."""

    def __init__(self, work_dir: Path, own: Resources) -> None:
        """`own`: --resources. Raises CheckpointError when they no longer hold what is remembered."""
        self._work_dir = work_dir
        self._file = work_dir / "meta" / "resources" / "resources.info"
        self.resources = Resources.from_json(checkpoint.read(self._file) or [])
        try:
            self.total = restored(own, self.resources)
        except ConversionError as error:
            raise CheckpointError(
                f"--resources no longer hold the reservations and volumes of {work_dir}: {error}; start the agent "
                "with what it had before"
            ) from error
        self._own = own
        self._sync(Resources())  # volumes that a crash left without a directory

    def take(self, resources: Resources) -> None:
        """The master's new word. The data of volumes that are gone goes with them. Raises CheckpointError."""
        if resources == self.resources:
            return
        old, self.resources = self.resources, resources
        self.total = restored(self._own, resources)
        target = self._file.with_name("resources.target")
        checkpoint.write(target, resources.to_json())
        self._sync(old)
        os.replace(target, self._file)
        log.info("reservations and volumes are now: %s", resources)

    def _sync(self, old: Resources) -> None:
        before, now = self._paths(old), self._paths(self.resources)
        try:
            for path in now - before:
                path.mkdir(parents=True, exist_ok=True)
            for path in before - now:
                log.info("deleting the persistent volume at %s", path)
                if path.exists():
                    shutil.rmtree(path)
        except OSError as error:
            raise CheckpointError(f"cannot sync persistent volumes: {error}") from error

    def _paths(self, resources: Resources) -> set[Path]:
        return {self.path(volume) for volume in volumes(resources)}

    def path(self, volume: Json) -> Path:
        return volume_path(self._work_dir, volume)

    def link(self, sandbox: Path, linked: dict[str, Path], wanted: Resources) -> dict[str, Path]:
        """Make the links of a sandbox fit the volumes its executor and tasks hold: by name, what is linked now.

        Raises VolumeError."""
        now = {
            volume["disk"]["volume"]["container_path"]: self.path(volume)
            for volume in volumes(wanted)
            if "/" not in volume["disk"]["volume"]["container_path"]
        }
        for name in set(linked) - set(now):
            (sandbox / name).unlink(missing_ok=True)
        for name, path in now.items():
            _link(sandbox, sandbox / name, path)
        return now


def _link(sandbox: Path, link: Path, path: Path) -> None:
    if os.path.lexists(link):
        if link.resolve() != path.resolve():
            raise VolumeError(
                f"The existing symlink '{link}' points to '{link.resolve()}' and the new target is '{path}'"
            )
        return
    try:
        owner = sandbox.stat()
        if owner.st_uid != 0:
            os.chown(path, owner.st_uid, owner.st_gid)
        link.symlink_to(path)
    except OSError as error:
        raise VolumeError(
            f"Failed to symlink persistent volume from '{path}' to '{link}': {error}"
        ) from error
