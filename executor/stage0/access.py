"""Who may use an image that is in the store already.

An image that came with the node's own logins, or without any, is every pod's. One that only a pod's imagePullSecrets
opened is that login's: a pod with another login, or none, gets it when the registry says so now, whatever the pull
policy. What is kept is no login but a salted hash of it, in the image's record:

    "access": null | {"salt": HEX, "logins": [HEX, …]}

Source: Kubernetes KEP-2535 (ensure secret pulled images).
"""

import hmac
from collections.abc import Iterable, Mapping
from secrets import token_bytes
from typing import Any

from executor.stage0.login import Login


def allowed(access: Mapping[str, Any] | None, logins: Iterable[Login]) -> bool:
    """Whether the record says yes to one of these logins."""
    if access is None:
        return True
    salt = bytes.fromhex(str(access["salt"]))
    known = [str(mark) for mark in access["logins"]]
    return any(hmac.compare_digest(login.mark(salt), mark) for login in logins for mark in known)


def opened(known: Mapping[str, Any] | None, login: Login | None, *, new: bool) -> dict[str, Any] | None:
    """The record's field after a pull or a question that was answered with `login` (None: with no pod's login).

    new: the image was not in the store before; `known` counts only otherwise.
    """
    if login is None or (not new and known is None):
        return None  # once everybody's, always everybody's
    if known is None:
        salt = token_bytes(16)
        return {"salt": salt.hex(), "logins": [login.mark(salt)]}
    mark = login.mark(bytes.fromhex(str(known["salt"])))
    return {**known, "logins": [*(m for m in known["logins"] if m != mark), mark]}
