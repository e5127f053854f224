"""Pods of `app sandbox` that somebody else's stage1 runs: `app/add`, `app/start`, `app/stop` and `app/rm` are its own
(executor/contract/mutable). What it, and what its apps say through it, goes where our output goes.
"""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from executor.contract.interface import ContractError
from executor.contract.manifest import convert
from executor.contract.mutable import Mutable
from executor.contract.sandbox import Job
from executor.pods.launcher import AppExit, LaunchError
from executor.pods.ports import Sandbox
from executor.rkt import measured
from executor.rkt.common import Globals
from executor.rkt.flags import Failure
from executor.rkt.foreground import Foreground
from executor.rkt.foreign import ForeignPod, check_modes, file_steps
from executor.rkt.mutable import MutablePod
from executor.rkt.podflags import PodFlags, sockets
from executor.rkt.prepare import Making
from executor.rkt.stage1 import FOREIGN
from executor.rkt.streams import Output


class _Sandbox(Mutable):
    """With the files of /etc that stage0 gives (name → text), and our output."""

    def __init__(
        self,
        job: Job,
        on_exit: Callable[[AppExit], None],
        on_gone: Callable[[str], None],
        files: Mapping[str, str],
    ) -> None:
        super().__init__(job, on_exit, on_gone)
        self._files = files
        self._output = Output(lambda: "")  # always by a pipe of ours

    async def before_run(self) -> None:
        await self.holder.prepare(file_steps(self.job.pod_dir, self._files))

    def output(self) -> tuple[int, int]:
        out, err = (os.dup(fd) for fd in self._output.fds)
        self._output.close_ours()
        return out, err

    async def stop(self) -> None:
        await super().stop()
        await self._output.finish()


class MutableForeignPod(MutablePod, ForeignPod):
    """One running pod. `load` first."""

    mutable = True

    def __init__(self, g: Globals, making: Making, asked: PodFlags) -> None:
        MutablePod.__init__(self, g, making, None, interactive=False, tpm=measured.settings(g, asked.flags))
        self._asked, self._making = asked, making

    async def start(self, name: str) -> None:
        await Foreground.start(self, name)

    def check(self, entry: dict[str, Any], insecure: set[str]) -> None:
        """What is not insisted on, the stage1 was told when it was run."""
        check_modes(self.stage1, entry)

    async def _run_stage1(
        self, pod_dir: Path, on_exit: Callable[[AppExit], None], on_gone: Callable[[str], None]
    ) -> Sandbox:
        job, files = self.job(pod_dir)
        sandbox = _Sandbox(job, on_exit, on_gone, files)
        sandbox.listening = sockets()
        await sandbox.begin()
        return sandbox

    async def _change(self, manifest: dict[str, Any], digests: Mapping[str, str] | None = None) -> None:
        """The file of the manifest is the stage1's to read, and so written by who talks to it."""
        assert isinstance(self.sandbox, Mutable)

        async def measure() -> None:
            if self.tpm is not None and digests is not None:
                try:
                    await measured.measure(self.g, self.tpm, None, self.pod.path, digests, FOREIGN)
                except Failure as error:
                    raise LaunchError(str(error)) from None

        before = set(self.entries)
        for entry in manifest["apps"]:
            if entry["name"] not in before:
                try:
                    alone = json.dumps({**manifest, "apps": [entry]})
                    foreign = convert(self.stage1, alone, self.pod.path)
                except ContractError as error:
                    raise LaunchError(str(error)) from None
                await self.sandbox.add_app(foreign, entry["name"], measure)
        self.manifest = manifest
