"""The one place that takes secrets out of what is printed or stored: in addresses, and in any text that holds them.

    an address ──redacted──> scheme, host and path, nothing by which the place can be entered
    a message, a traceback ──redacted_text──> the same for the credentials of each address in it, and for the values of
                                              this process's secret variables

An address that is stored is refused if it carries credentials (`filesystems.check_no_credentials`). This is for those
that may carry them, and for the messages of other people's libraries, which quote addresses as they were given.
"""

from __future__ import annotations

import os
import re
from typing import Any
from urllib.parse import urlsplit

BLOT = "REDACTED"
# Parameters under which the large stores and their relatives put a signature or a key into a link.
_SIGNING_PARAMETERS = frozenset(
    ("access_token", "api_key", "apikey", "auth", "awsaccesskeyid", "googleaccessid", "key", "key-pair-id", "passwd")
    + ("password", "policy", "secret", "sig", "signature", "token")
)
_SIGNING_PREFIXES = ("x-amz-", "x-goog-", "x-oss-", "q-sign")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s\"'<>`]+")
# A client may quote the target of its request without scheme and host ("with url: /a.mp4?X-Amz-Signature=...").
_PARAMETER = re.compile(r"(?<=[?&;])([A-Za-z0-9_.-]+)=([^\s&;#\"'<>`)\],]+)")
_SECRET_VARIABLE = re.compile(
    r"(?:^|_)(?:ACCESS_KEY|ACCESS_KEY_ID|API_KEY|CREDENTIAL|CREDENTIALS|PASSWD|PASSWORD|PRIVATE_KEY|SECRET|SECRET_KEY|TOKEN)$"
)
_LEAST_SECRET_CHARS = 8  # a shorter value may be a word that stands in messages for other reasons


def redacted(uri: str) -> str:
    """A URI without user, password and the values of its query, where presigned links carry signatures.

    All values go, since no list of the names under which services sign is complete. A plain path has none of these.
    """
    if "://" not in uri:
        return uri
    try:
        parts = urlsplit(uri)
    except ValueError:
        return f"{uri.partition('://')[0]}://{BLOT}"
    host = parts.netloc.rpartition("@")[2]
    query = "&".join(
        f"{name}={BLOT}" if separator else BLOT
        for name, separator, _ in (item.partition("=") for item in parts.query.split("&") if item)
    )
    netloc = f"{BLOT}@{host}" if host != parts.netloc else host
    # Not by urlunsplit, which writes sqlite:////data/x with two slashes less.
    return "".join(
        (f"{parts.scheme}://{netloc}{parts.path}", f"?{query}" if query else "", f"#{BLOT}" if parts.fragment else "")
    )


def redacted_text(text: str) -> str:
    """Any text without the user and password of the addresses in it, their signatures, and this process's secrets."""
    text = _ADDRESS.sub(lambda found: _without_user(found[0]), text)
    text = _PARAMETER.sub(lambda found: f"{found[1]}={BLOT}" if is_signing(found[1]) else found[0], text)
    for secret in _own_secrets():
        text = text.replace(secret, BLOT)
    return text


def redacted_values(value: Any) -> Any:
    """JSON-like values with `redacted_text` over every text in them."""
    if isinstance(value, str):
        return redacted_text(value)
    if isinstance(value, dict):
        return {key: redacted_values(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [redacted_values(item) for item in value]
    return value


def is_signing(parameter: str) -> bool:
    """Whether a parameter of an address carries a key or a signature, by its name."""
    name = parameter.lower()
    return name in _SIGNING_PARAMETERS or name.startswith(_SIGNING_PREFIXES)


def _without_user(address: str) -> str:
    scheme, _, rest = address.partition("://")
    # A password may hold a slash that was not escaped: what is before the last @ of the first line goes.
    user, at, host = rest.rpartition("@")
    if not at or ("/" in user and ":" not in user.partition("/")[0]):
        return address
    return f"{scheme}://{BLOT}@{host}"


def _own_secrets() -> list[str]:
    values = {value for name, value in os.environ.items() if _SECRET_VARIABLE.search(name.upper())}
    return sorted((value for value in values if len(value) >= _LEAST_SECRET_CHARS), key=len, reverse=True)
