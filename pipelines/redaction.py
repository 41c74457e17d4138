"""The one place that takes secrets out of what is printed or stored: in addresses, and in any text that holds them.

    an address ──redacted──> scheme, host and path, nothing by which the place can be entered
    a message, a traceback ──redacted_text──> the same for the credentials of each address in it, and for the values of
                                              this process's secret variables

An address that is stored is refused if it carries credentials (`filesystems.check_no_credentials`). This is for those
that may carry them, and for the messages of other people's libraries, which quote addresses as they were given.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, quote_plus, unquote

BLOT = "REDACTED"
# Parameters under which the large stores and their relatives put a signature or a key into a link.
_SIGNING_PARAMETERS = frozenset(
    ("accesskey", "accesskeyid", "apikey", "auth", "authkey", "authorization", "awsaccesskeyid", "googleaccessid")
    + ("hdnea", "hdnts", "key", "keypairid", "pass", "policy", "pwd", "sig", "sign", "subscriptionkey")
)
_SIGNING_PREFIXES = ("x-amz-", "x-goog-", "x-oss-", "x-bz-", "q-sign")
_SIGNING_ENDINGS = ("credential", "credentials", "hmac", "jwt", "passwd", "password", "secret", "signature", "token")
# Up to the next one: some messages list several with nothing but a comma between them.
_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]*://"
_ADDRESS = re.compile(rf"{_SCHEME}(?:(?!{_SCHEME})[^\s\"'<>`])+")
# A client may quote the target of its request without scheme and host ("with url: /a.mp4?X-Amz-Signature=...").
_PARAMETER = re.compile(r"(?<=[?&;])([A-Za-z0-9_.-]+)=([^\s&;#\"'<>`)\],]+)")
_HOST = re.compile(r"(?:\[[^\]@]*\]|[^:@]*)(?::\d{0,5})?")
_SECRET_VARIABLE = re.compile(
    r"(?:CREDENTIALS?|PASSPHRASE|PASSWD|PASSWORD|SECRET|TOKEN|ACCESS_?KEY_ID)$"
    r"|(?:^|_)KEY$|_(?:AUTH|CONNECTION_STRING|PASS|PAT|PWD|SAS)$"
)
_LEAST_SECRET_CHARS = 8  # a shorter value may be a word that stands in messages for other reasons


def redacted(uri: str) -> str:
    """A URI without user, password and the values of its query, where presigned links carry signatures.

    All values go, since no list of the names under which services sign is complete. A plain path has none of these.
    """
    if len(_ADDRESS.findall(uri)) > 1:  # chained, as fsspec does it
        return _ADDRESS.sub(lambda found: _redacted(found[0]), uri)
    return _redacted(uri)


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
    plain = re.sub(r"[-_.]", "", name)
    return plain in _SIGNING_PARAMETERS or name.startswith(_SIGNING_PREFIXES) or plain.endswith(_SIGNING_ENDINGS)


def is_secret_variable(name: str) -> bool:
    """Whether a variable of the environment holds a secret, by its name."""
    return _SECRET_VARIABLE.search(name.upper()) is not None


def user_end(rest: str) -> int:
    """How much of an address behind its `://` is a user, a password and the @ behind them; 0 for none of these.

    Keys of S3 often hold a slash that nobody escapes, so a password may go on behind what looks like the host.
    """
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    user, at, _ = authority.rpartition("@")
    if at and ":" not in user:
        return len(user) + 1
    if not at and _HOST.fullmatch(authority):
        return 0  # an @ further on is the path's
    return rest.rfind("@") + 1


def addresses_in(text: str) -> Iterator[str]:
    """The addresses that a text names, and itself if it is one."""
    yield text
    yield from _ADDRESS.findall(text)


def _without_user(address: str) -> str:
    scheme, _, rest = address.partition("://")
    end = user_end(rest)
    return f"{scheme}://{BLOT}@{rest[end:]}" if end else address


def _own_secrets() -> list[str]:
    """The values of secret variables and the passwords in addresses of others, as they are and as others quote them."""
    values = {value for name, value in os.environ.items() if is_secret_variable(name)}
    values |= {password for value in os.environ.values() for password in _passwords(value)}
    # A key of several lines, or with a line's end that came along from a file, is quoted with these as \n.
    values |= {line.strip() for value in values for line in value.splitlines()}
    values |= {form for value in values for form in (quote(value, safe=""), quote_plus(value), *_escaped(value))}
    return sorted((value for value in values if len(value) >= _LEAST_SECRET_CHARS), key=len, reverse=True)


def _escaped(value: str) -> tuple[str, ...]:
    """As a string stands in a traceback, in JSON, and as bytes."""
    return repr(value)[1:-1], json.dumps(value)[1:-1], repr(value.encode("utf-8", "surrogateescape"))[2:-1]


def _passwords(text: str) -> Iterator[str]:
    if "@" not in text:
        return
    for address in _ADDRESS.findall(text):
        rest = address.partition("://")[2]
        password = rest[: max(user_end(rest) - 1, 0)].partition(":")[2]
        yield from (password, unquote(password))


def _redacted(uri: str) -> str:
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return uri
    end = user_end(rest)
    place, _, fragment = rest[end:].partition("#")
    path, _, parameters = place.partition("?")
    query = "&".join(
        f"{name}={BLOT}" if equals else BLOT
        for name, equals, _ in (item.partition("=") for item in parameters.split("&") if item)
    )
    user = f"{BLOT}@" if end else ""
    return "".join((f"{scheme}://{user}{path}", f"?{query}" if query else "", f"#{BLOT}" if fragment else ""))
