"""Logins for ACIs: what rktKind `auth` says of a host, as headers of requests to it.

They go to the host they are configured for and nowhere else, over HTTPS, or HTTP when an image was asked for by such an
address. Source of the kinds: rkt `config/auth.go`; of the third: AWS, "Signature Version 4".
"""

import base64
import hashlib
import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, quote

from yarl import URL

from executor.rkt.config import Config
from executor.stage0.settings import authority, is_loopback

_EMPTY: Final = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True)
class Logins:
    """A `Login` of stage0's settings. plain: HTTP was asked for by address."""

    config: Config
    plain: bool = False

    def __call__(self, method: str, url: URL) -> Mapping[str, str]:
        if url.scheme != "https" and not self.plain and not is_loopback(authority(url)):
            return {}
        known = self.config.auth.get(authority(url)) or self.config.auth.get(f"{url.host}:{url.port}")
        if known is None:
            return {}
        kind, words = known
        if kind == "basic":
            pair = base64.b64encode(f"{words['user']}:{words['password']}".encode()).decode()
            return {"Authorization": f"Basic {pair}"}
        if kind == "oauth":
            return {"Authorization": f"Bearer {words['token']}"}
        return sign_aws(
            method, url, words["accessKeyID"], words["secretAccessKey"],
            words.get("awsRegion") or guess_region(url.host or ""),
        )  # fmt: skip


def guess_region(host: str) -> str:
    """Of an S3 address, by its name."""
    parts = host.lower().split(".")
    if len(parts) >= 3 and parts[-2] == "amazonaws":
        if parts[-3].startswith("s3-") and not parts[-3].startswith("s3-external-"):
            return parts[-3][3:]
        if len(parts) > 4 and parts[-4] == "s3":
            return parts[-3]
    return "us-east-1"


def sign_aws(
    method: str, url: URL, key: str, secret: str, region: str, *, now: float | None = None
) -> dict[str, str]:
    """Headers that sign a request without a body for S3. now: Unix time."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    headers = {"host": authority(url), "x-amz-content-sha256": _EMPTY, "x-amz-date": stamp}
    query = sorted(parse_qsl(url.raw_query_string, keep_blank_values=True))
    canonical = "\n".join((
        method,
        quote(url.path, safe="/-_.~"),
        "&".join(f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}" for name, value in query),
        *(f"{name}:{value}" for name, value in headers.items()),
        "",
        ";".join(headers),
        _EMPTY,
    ))  # fmt: skip
    scope = f"{stamp[:8]}/{region}/s3/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    signing = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        signing = hmac.digest(signing, part.encode(), "sha256")
    signature = hmac.digest(signing, text.encode(), "sha256").hex()
    return {
        "X-Amz-Content-Sha256": _EMPTY,
        "X-Amz-Date": stamp,
        "Authorization": f"AWS4-HMAC-SHA256 Credential={key}/{scope}, SignedHeaders={';'.join(headers)}, "
        f"Signature={signature}",
    }
