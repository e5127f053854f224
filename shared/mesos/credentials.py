"""What goes into the Authorization header of calls to a master.

HTTP Basic, as Mesos' own `basic` authenticatee, is here; another way to authenticate (a service account whose
token is renewed) is another `Credentials`.
"""

from base64 import b64encode
from dataclasses import dataclass, field
from typing import Protocol


class Credentials(Protocol):
    """Asked before every SUBSCRIBE; calls on the subscription carry the same header."""

    async def authorization(self) -> str:
        """The value of the Authorization header. May raise OSError when it cannot be had now."""

    async def renew(self) -> bool:
        """After a 401: whether it is worth asking `authorization()` again."""


@dataclass(frozen=True, slots=True)
class BasicCredentials:
    """Principal and secret of HTTP Basic authentication."""

    principal: str
    secret: str = field(repr=False)

    async def authorization(self) -> str:
        """`Basic …`."""
        return "Basic " + b64encode(f"{self.principal}:{self.secret}".encode()).decode("ascii")

    async def renew(self) -> bool:
        """A secret does not get better by asking again."""
        return False
