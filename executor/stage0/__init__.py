"""stage0, the image side: names, sources, the store of rendered layers. `ImageStore.pull` is the way in.

The store is loaded when it is first asked for: it takes a fifth of a second, which short commands have no use for.
"""

from typing import TYPE_CHECKING, Any

from executor.stage0.errors import (
    ImageBroken,
    ImageError,
    ImageNeverPull,
    ImageNotFound,
    ImageRefused,
    ImageUntrusted,
    InvalidImageName,
    RegistryUnavailable,
    StoreError,
)

if TYPE_CHECKING:
    from executor.stage0.config import ImageConfig
    from executor.stage0.store import Image, ImageStore, Policy, Verification

__all__ = [
    "Image",
    "ImageBroken",
    "ImageConfig",
    "ImageError",
    "ImageNeverPull",
    "ImageNotFound",
    "ImageRefused",
    "ImageStore",
    "ImageUntrusted",
    "InvalidImageName",
    "Policy",
    "RegistryUnavailable",
    "StoreError",
    "Verification",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from executor.stage0 import store

    return getattr(store, name)
