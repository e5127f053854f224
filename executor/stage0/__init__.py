"""stage0, the image side: names, sources, the store of rendered layers. `ImageStore.pull` is the way in."""

from executor.stage0.config import ImageConfig
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
