"""What survives a restart of the agent, and where: Mesos' layout of the work directory, in JSON.

    <work_dir>/slaves/S/frameworks/F/executors/E/runs/C            the sandbox
    <work_dir>/meta/slaves/latest → S
    <work_dir>/meta/slaves/S/slave.info
             …/frameworks/F/framework.info, executors/E/executor.info,
             …/executors/E/runs/C/forked.pid, heard, tasks/T/task.info, tasks/T/task.updates

Files are replaced by rename; updates are appended, a torn last line is ignored. Nothing is fsync'ed: this survives the
death of the agent, not a power cut, after which no executor is alive anyway.

Source: Mesos src/slave/paths.hpp, src/slave/state.cpp.
"""

import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from local.agent.containers.processes import Identity
from local.wire.proto import Json

log = logging.getLogger(__name__)


class CheckpointError(Exception):
    """The work directory cannot be read or written, or holds what does not fit; one line."""


@dataclass
class TaskState:
    """A task as it was checkpointed."""

    info: Json
    updates: list[Json] = field(default_factory=list)  # statuses, in order
    acknowledged: set[str] = field(default_factory=set)  # uuids


@dataclass
class RunState:
    """The latest run of an executor. `identity` None: it was never started."""

    framework_info: Json
    executor_info: Json | None  # None: it was not to be recovered
    container_id: str
    identity: Identity | None
    heard: bool  # the executor had sent an update
    tasks: dict[str, TaskState] = field(default_factory=dict)


class Paths:
    """The directories of one agent id."""

    def __init__(self, work_dir: Path, agent_id: str) -> None:
        self.meta = work_dir / "meta" / "slaves" / agent_id
        self.sandboxes = work_dir / "slaves" / agent_id

    def framework(self, framework_id: str) -> Path:
        return self.meta / "frameworks" / framework_id

    def executor(self, framework_id: str, executor_id: str) -> Path:
        return self.framework(framework_id) / "executors" / executor_id

    def run(self, framework_id: str, executor_id: str, container_id: str) -> Path:
        return self.executor(framework_id, executor_id) / "runs" / container_id

    def sandbox(self, framework_id: str, executor_id: str, container_id: str) -> Path:
        return (
            self.sandboxes / "frameworks" / framework_id / "executors" / executor_id / "runs" / container_id
        )


def write(path: Path, content: Any) -> None:
    """Replace a JSON file. Raises CheckpointError."""
    temporary = path.with_name(path.name + ".tmp")
    data = orjson.dumps(content)
    try:
        try:
            temporary.write_bytes(data)
        except FileNotFoundError:
            path.parent.mkdir(parents=True)
            temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from error


def read(path: Path) -> Any:
    """A JSON file, None when there is none. Raises CheckpointError."""
    try:
        return orjson.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from error


def link(path: Path, target: str) -> None:
    """Replace a symbolic link."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    os.replace(temporary, path)


def append(path: Path, record: Json) -> None:
    """Add a line to a task's updates."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.write(descriptor, orjson.dumps(record) + b"\n")
    finally:
        os.close(descriptor)


def latest_agent(work_dir: Path) -> str | None:
    """The id of the agent that used this work directory last."""
    path = work_dir / "meta" / "slaves" / "latest"
    return os.readlink(path) if path.is_symlink() else None


def save_agent(work_dir: Path, agent_id: str, info: Json) -> None:
    """Remember the id the master gave."""
    paths = Paths(work_dir, agent_id)
    write(paths.meta / "slave.info", info)
    link(paths.meta.parent / "latest", agent_id)


def forget_agent(work_dir: Path) -> None:
    """The next agent starts with a new id."""
    (work_dir / "meta" / "slaves" / "latest").unlink(missing_ok=True)


def remove(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)


def runs(paths: Paths) -> Iterator[tuple[str, str, RunState]]:
    """(framework id, executor id, run) of every run on disk."""
    for framework in _directories(paths.meta / "frameworks"):
        info = read(framework / "framework.info")
        for executor in _directories(framework / "executors"):
            executor_info = read(executor / "executor.info")
            for run in _directories(executor / "runs"):
                pid = read(run / "forked.pid")
                identity = Identity(**pid) if pid is not None else None
                heard = (run / "heard").exists()
                state = RunState(info or {}, executor_info if info else None, run.name, identity, heard)
                for task in _directories(run / "tasks"):
                    loaded = _task(task)
                    if loaded is not None:
                        state.tasks[task.name] = loaded
                yield framework.name, executor.name, state


def _directories(path: Path) -> list[Path]:
    try:
        return sorted(p for p in path.iterdir() if p.is_dir() and not p.is_symlink())
    except FileNotFoundError:
        return []


def _task(path: Path) -> TaskState | None:
    info = read(path / "task.info")
    if info is None:
        return None
    result = TaskState(info)
    try:
        lines = (path / "task.updates").read_bytes().split(b"\n")
    except FileNotFoundError:
        return result
    for number, line in enumerate(lines):
        if not line:
            continue
        try:
            record = orjson.loads(line)
        except ValueError:
            if number < len(lines) - 1:
                log.warning("%s: line %d is broken, ignored", path / "task.updates", number + 1)
            continue
        if "ack" in record:
            result.acknowledged.add(record["ack"])
        else:
            result.updates.append(record["update"])
    return result
