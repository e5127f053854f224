"""Bearer tokens, in files that something else keeps fresh.

The methods are those of a driver's credentials: `authorization`, `renew`, `renew_in`.
"""

from pathlib import Path

from shared.security.secretfile import read_line

REREAD = 60.0  # seconds between looks at a token's file, as Kubernetes' clients do


class BearerTokenFile:
    """A token in a file, read again every minute and after a 401."""

    def __init__(self, path: Path) -> None:
        """SecretError when there is no token in the file now."""
        self._path = path
        self._read()

    def _read(self) -> str:
        return f"Bearer {read_line(self._path, 'token file')}"

    async def authorization(self) -> str:
        """`Bearer …`, as the file has it now. SecretError (an OSError) when it cannot be read."""
        return self._read()

    async def renew(self, refused: str) -> bool:
        """Whether the file has another token now than the one refused."""
        return self._read() != refused

    def renew_in(self) -> float | None:
        """Seconds until the file should be read again."""
        return REREAD
