"""GnuPG homes with secret keys."""

import subprocess
from pathlib import Path


class Gpg:
    """A GnuPG home with secret keys, and its agent."""

    def __init__(self, home: Path) -> None:
        self.home = home
        home.mkdir(mode=0o700)
        self.keys: dict[str, str] = {}

    def __call__(self, *argv: str | Path, stdin: str = "") -> str:
        command = ["gpg", "--homedir", str(self.home), "--batch", "--quiet", "--yes", *map(str, argv)]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def key(self, name: str, *more: str, algorithm: str = "ed25519", expires: str = "0") -> str:
        """A new key; its fingerprint, lower case."""
        self(
            *more,
            "--passphrase",
            "",
            "--quick-gen-key",
            f"{name} <{name}@example.com>",
            algorithm,
            "sign",
            expires,
        )
        listed = self("--with-colons", "--list-keys", f"{name}@example.com")
        self.keys[name] = next(
            line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr")
        ).lower()
        return self.keys[name]

    def revoke(self, name: str) -> None:
        path = self.home / "openpgp-revocs.d" / f"{self.keys[name].upper()}.rev"
        self("--import", "-", stdin=path.read_text().replace(":-----BEGIN", "-----BEGIN"))

    def public(self, name: str) -> str:
        return self("--armor", "--export", self.keys[name])

    def sign(self, name: str, path: Path, *more: str, armor: bool = True) -> Path:
        out = path.with_name(f"{path.name}.asc")
        self(
            *more,
            "-u",
            self.keys[name],
            *(["--armor"] if armor else []),
            "--output",
            out,
            "--detach-sign",
            path,
        )
        return out

    def close(self) -> None:
        subprocess.run(
            ["gpgconf", "--homedir", str(self.home), "--kill", "all"], check=False, capture_output=True
        )
