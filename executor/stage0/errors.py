"""Why an image cannot be had. One tree; `reason` is what Kubernetes shows as the container's waiting reason.

    ImageError                     ErrImagePull
    ├── InvalidImageName           InvalidImageName       the reference cannot be parsed, or asks for what is not done
    ├── ImageNotFound              ErrImagePull           nobody has it
    │   └── ImageNeverPull         ErrImageNeverPull      it is not here and the policy forbids to fetch it
    ├── ImageBroken                ErrImagePull           it is there, and damaged, malicious or not runnable
    ├── ImageRefused               ErrImagePull           the registry says no (401, 403), or the image is in use
    ├── ImageUntrusted             SignatureValidationFailed  no signature that this node's policy wants
    ├── RegistryUnavailable        RegistryUnavailable    try again later: network, 5xx, 429
    └── StoreError                 ErrImagePull           this machine's store: disk full, not root, a newer layout

Messages are one line and start with the image as the user wrote it; deeper layers raise `ImageBroken` with the part
they know ("layer sha256:…: entry x: …") and the store puts the image in front of it (`about`).
"""

from typing import ClassVar, Self

MAX_MESSAGE = 1000  # an event's message has room for 1024


def one_line(text: str) -> str:
    """What an image says about itself, fit for a terminal and an event: no control characters, not endless."""
    clean = (
        text
        if text.isprintable()
        else "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    )
    return clean if len(clean) <= MAX_MESSAGE else clean[: MAX_MESSAGE - 1] + "…"


class ImageError(Exception):
    """An image cannot be had. The message is one line fit for a pod event."""

    reason: ClassVar[str] = "ErrImagePull"

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))

    def about(self, subject: str) -> Self:
        """The same error with `subject: ` in front, unless it is already there."""
        text = str(self)
        return self if text.startswith(f"{subject}: ") else type(self)(f"{subject}: {text}")


class InvalidImageName(ImageError):
    """The reference cannot be parsed or uses a transport that is not there."""

    reason = "InvalidImageName"


class ImageNotFound(ImageError):
    """No such image, tag or digest where the reference points to."""


class ImageNeverPull(ImageNotFound):
    """`imagePullPolicy: Never` and the image is not in the store."""

    reason = "ErrImageNeverPull"


class ImageBroken(ImageError):
    """The image is damaged, breaks its format's rules, or tries to get out of its directory."""


class ImageRefused(ImageError):
    """Somebody who may says no: the registry (401, 403), or a pod still uses the image (rm)."""


class ImageUntrusted(ImageError):
    """Policy asks for a signature that is missing, bad, or made with a key that is not trusted (any more)."""

    reason = "SignatureValidationFailed"


class RegistryUnavailable(ImageError):
    """The registry cannot be reached or does not serve now; a later try may work."""

    reason = "RegistryUnavailable"


class StoreError(ImageError):
    """The local store cannot be used: disk full, no permission, a layout we do not know."""
