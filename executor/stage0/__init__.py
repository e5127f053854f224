"""stage0, the image side: names, sources, the store of rendered layers. `ImageStore.pull` is the way in.

    names ─▶ store ─┬▶ sources: layout, archive, registry (endpoint, login, platforms), webaci (discovery); web beneath
                    ├▶ acisource: the one way in for ACIs (aci, acmanifest, acrules, dependencies)
                    ├▶ trust: who may have made it
                    └▶ layers ─▶ streams, pipe ─▶ tarstream ─▶ extract ─▶ cas, which keeps it (pins, seal, split)
    later:  guard (at each run), gc, check, inventory, operations; cli and cli_trust for people

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
