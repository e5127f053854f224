"""What goes into the Authorization header of calls to a master.

HTTP Basic, as Mesos' own `basic` authenticatee, is here; bearer tokens and DC/OS service accounts are in
shared.security.
"""

from base64 import b64encode
from dataclasses import dataclass, field
from typing import Protocol


class Credentials(Protocol):
    """Asked before every SUBSCRIBE, and again while subscribed after `renew_in()`; calls carry what it said last."""

    async def authorization(self) -> str:
        """The value of the Authorization header. May raise OSError when it cannot be had now."""

    async def renew(self, refused: str) -> bool:
        """After a 401 for `refused`: whether `authorization()` is another now. May raise OSError."""

    def renew_in(self) -> float | None:
        """Seconds until `authorization()` should be asked again; None for never."""


@dataclass(frozen=True, slots=True)
class BasicCredentials:
    """Principal and secret of HTTP Basic authentication."""

    principal: str
    secret: str = field(repr=False)

    def __post_init__(self) -> None:
        """ValueError for a principal or secret that HTTP Basic cannot carry."""
        if not self.principal or ":" in self.principal:
            raise ValueError(f"principal '{self.principal}': must not be empty or contain a colon")
        if not self.secret:
            raise ValueError(f"the secret of principal '{self.principal}' is empty")

    async def authorization(self) -> str:
        """`Basic …`."""
        return "Basic " + b64encode(f"{self.principal}:{self.secret}".encode()).decode("ascii")

    async def renew(self, refused: str) -> bool:
        """A secret does not get better by asking again."""
        return False

    def renew_in(self) -> float | None:
        """Never."""
        return None
