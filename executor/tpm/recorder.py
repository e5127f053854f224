"""Extends the PCR by events and writes them down, so that log and PCR never come apart unnoticed.

    lock ─▶ PCR = log? ─▶ write the intent, sync ─▶ extend ─▶ write done ─▶ unlock

Before each extend the PCR is compared with the log: what was left open by a crash is resolved, a TPM that started again
begins a new log, and any other difference is an error for good.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from executor.tpm.commands import Tpm, opened
from executor.tpm.errors import MismatchError
from executor.tpm.events import Boot, Event
from executor.tpm.log import EventLog
from executor.tpm.transport import Tcti


def now() -> str:
    """UTC, to the millisecond."""
    seconds = time.time()
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1000):03}Z"


def kernel_boot_id() -> str:
    """Another one at each start of the system (Linux, random(4))."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


class Recorder:
    """One PCR and its log. Not for several threads. boot_id: of the running system, the kernel's by default."""

    def __init__(self, tcti: Tcti, directory: Path, pcr: int, boot_id: str | None = None) -> None:
        self._tcti = tcti
        self._pcr = pcr
        self._boot_id = boot_id or kernel_boot_id()
        self.log = EventLog(directory, pcr)

    @contextmanager
    def session(self) -> Iterator[Tpm]:
        """Alone with log and TPM, which agree. Raises TpmError or another OSError."""
        with self.log.locked(), opened(self._tcti) as tpm:
            self._agree(tpm)
            yield tpm

    def record(self, events: list[Event]) -> None:
        """Measure events. When this returns the PCR has them; when it raises nothing may be started."""
        with self.session() as tpm:
            intent = self.log.intend(events)
            tpm.pcr_extend(self._pcr, intent.digest)
            self.log.resolve(intent, extended=True)

    def _agree(self, tpm: Tpm) -> None:
        value, replay = tpm.pcr_read(self._pcr), self.log.replay
        if replay.boot is None:
            self._begin(tpm, value)
        elif value == replay.value:
            if replay.pending is not None:
                self.log.resolve(replay.pending, extended=False)
        elif replay.pending is not None and value == replay.pending.pcr:
            self.log.resolve(replay.pending, extended=True)
        else:
            self._differ(tpm, value, replay.boot, replay.value)

    def _differ(self, tpm: Tpm, value: bytes, boot: Boot, expected: bytes) -> None:
        clock = tpm.read_clock()
        if (clock.resets, clock.restarts) == (boot.resets, boot.restarts):
            raise MismatchError(
                f"PCR {self._pcr} is {value.hex()}, but by the event log {self.log.path} it is {expected.hex()}: "
                f"somebody else extends it (then choose another, --tpm-pcr), or the log was changed"
            )
        if boot.boot_id == self._boot_id:
            raise MismatchError(
                f"the TPM was reset while this system runs: PCR {self._pcr} no longer tells what was started "
                f"before (event log {self.log.path}); reboot the machine"
            )
        self._begin(tpm, value)

    def _begin(self, tpm: Tpm, value: bytes) -> None:
        clock = tpm.read_clock()
        self.log.begin(Boot(self._pcr, value, self._boot_id, clock.resets, clock.restarts, now()))
