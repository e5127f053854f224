"""Bringing an image's layers into the store: some at a time, each once, in threads that nobody else waits for."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from executor.stage0.cas import Cas
from executor.stage0.errors import ImageError
from executor.stage0.manifest import Layer

Progress = Callable[[str], None]
IMPORTERS = 16  # layers that come in at one time, of all images


class LayerImports:
    """All imports of a process into one store. parallel: of one image at a time."""

    def __init__(self, cas: Cas, parallel: int) -> None:
        self._cas, self._parallel = cas, parallel
        # Of their own: importers wait for the network, and warm pods must not wait with them.
        self._threads = ThreadPoolExecutor(IMPORTERS, "import")
        self._running: dict[str, asyncio.Future[bool]] = {}

    async def run(self, ref: str, layers: Sequence[Layer], progress: Progress) -> None:
        """All layers that are missing; the first failure ends the pull (what is whole stays for the next try)."""
        slots = asyncio.Semaphore(self._parallel)
        missing = {layer.diff_id: (number, layer) for number, layer in reversed(list(enumerate(layers, 1)))
                   if not self._cas.has_layer(layer.diff_id)}  # fmt: skip

        async def one(number: int, layer: Layer) -> None:
            digest = layer.digest or layer.diff_id
            shown = f"{ref}: layer {number}/{len(layers)} {short(digest)}"
            async with slots:
                progress(f"{shown}{'' if layer.size is None else f' ({human(layer.size)})'}: importing")
                try:
                    new = await self._import(layer)
                except ImageError as error:
                    raise error.about(f"layer {number} of {len(layers)} ({digest})") from error.__cause__
                progress(f"{shown}: {'done' if new else 'already there'}")

        await _gather([one(number, layer) for number, layer in missing.values()])

    async def _import(self, layer: Layer) -> bool:
        """Whether the layer came in now. Pulls that want one layer at one time take one thread, not one each."""
        loop = asyncio.get_running_loop()
        while (running := self._running.get(layer.diff_id)) is not None and running.get_loop() is loop:
            await asyncio.wait([running])  # it is there afterwards, or ours to try
        importing = loop.run_in_executor(self._threads, self._cas.import_layer, layer)
        self._running[layer.diff_id] = importing
        try:
            return await importing
        finally:
            if self._running.get(layer.diff_id) is importing:
                del self._running[layer.diff_id]


async def _gather(work: list[Awaitable[None]]) -> None:
    """Run all; on the first failure wait for the others (threads cannot be cancelled), then raise it."""
    results = await asyncio.gather(*work, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result


def short(digest: str) -> str:
    """`sha256:0123456789ab`, for people."""
    return digest[:19]


def human(count: int) -> str:
    """1536 → `1.5 KiB`."""
    value, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
