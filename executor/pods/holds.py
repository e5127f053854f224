"""What keeps a pod's images from being collected."""

import asyncio

from executor.pods.ports import Hold, Image, Images


class Holds:
    """One for each app: of the image that its newest instance runs."""

    def __init__(self, images: Images) -> None:
        self._images = images
        self._held: dict[str, Hold] = {}

    async def take(self, app: str, image: Image) -> None:
        """Raises ImageError when it is not there any more."""
        hold = self._images.hold_again(image) or await self._hold(image)
        before = self._held.pop(app, None)
        self._held[app] = hold
        if before is not None:
            before.close()

    async def _hold(self, image: Image) -> Hold:
        holding = asyncio.ensure_future(asyncio.to_thread(self._images.hold, image))
        try:
            return await asyncio.shield(holding)
        except asyncio.CancelledError:  # the thread goes on
            holding.add_done_callback(_let_go)
            raise

    def close(self) -> None:
        for hold in self._held.values():
            hold.close()
        self._held.clear()


def _let_go(holding: "asyncio.Task[Hold]") -> None:
    if not holding.cancelled() and holding.exception() is None:
        holding.result().close()
