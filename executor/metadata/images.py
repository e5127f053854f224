"""Image manifests for the service, from the node's image store: an ACI's own, appc's words for any other image."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from executor.stage0 import operations
from executor.stage0.errors import ImageError


def store_manifests(state_dir: Path) -> Callable[[str], Mapping[str, Any]]:
    """Looks them up by image id. What it gives raises OSError or ValueError."""

    def look_up(image_id: str) -> Mapping[str, Any]:
        try:
            with operations.opened(state_dir, image_id) as image:
                return operations.appc_manifest(image)
        except ImageError as error:
            raise ValueError(f"image {image_id}: {error}") from None

    return look_up
