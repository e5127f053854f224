"""What really ran: the simulation's own record of the beginning and end of every task, for a checker to judge by.

One JSON object a line, in the order things happened; `read` replays it. It knows nothing of what the scheduler
believes, which is the point of it.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson


class Record:
    """Writes the file; lines are buffered until `flush`. Without a path nothing is kept."""

    def __init__(self, path: Path | None) -> None:
        self._file = path.open("ab") if path is not None else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def started(self, task_id: str, agent: str) -> None:
        """A task runs on the agent (its hostname) from now on."""
        self._write({"event": "started", "task": task_id, "agent": agent})

    def ended(self, task_id: str, why: str) -> None:
        """It runs no more."""
        self._write({"event": "ended", "task": task_id, "why": why})

    def fault(self, kind: str, agent: str) -> None:
        """Something was made to go wrong; `kind` "over": nothing will from now on."""
        self._write({"event": "fault", "kind": kind, "agent": agent})

    def _write(self, line: dict[str, Any]) -> None:
        if self._file is not None:
            self._file.write(orjson.dumps(line) + b"\n")

    def flush(self) -> None:
        """Let readers see all lines."""
        if self._file is not None:
            self._file.flush()


@dataclass
class History:
    """A record, replayed. `live`: task ids by pod uid, none empty; `doubled`: tasks that started beside another."""

    live: dict[str, set[str]] = field(default_factory=dict)
    doubled: list[tuple[str, ...]] = field(default_factory=list)
    started: int = 0
    ended: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    """How many tasks ended, by reason."""
    faults: dict[str, int] = field(default_factory=lambda: defaultdict(int))


def pod_of(task_id: str) -> str:
    """The uid of a task's pod: task ids are `<uid>.<attempt>`."""
    return task_id.rpartition(".")[0]


def read(path: Path) -> History:
    """Replays what is in the file up to now; a line that is not whole yet is left out."""
    history = History()
    whole, _, _ = path.read_bytes().rpartition(b"\n")
    for text in whole.splitlines():
        line = orjson.loads(text)
        if line["event"] == "fault":
            history.faults[line["kind"]] += 1
            continue
        tasks = history.live.setdefault(pod_of(line["task"]), set())
        if line["event"] == "started":
            history.started += 1
            tasks.add(line["task"])
            if len(tasks) > 1:
                history.doubled.append(tuple(sorted(tasks)))
        else:
            history.ended[line["why"]] += 1
            tasks.remove(line["task"])
            if not tasks:
                del history.live[pod_of(line["task"])]
    return history
