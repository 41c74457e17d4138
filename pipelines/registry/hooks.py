"""Telling others of a decision: one POST of JSON for each URL, signed, tried again, never in the way.

    outcome ──payload──> POST, X-Vamba-Signature: sha256=HMAC(secret, timestamp + "." + body) ──> delivered, or not
                                                                                    └── either way a line of the audit log

The decision stands before the first request is made, and no answer changes it. The secret is `$VAMBA_WEBHOOK_SECRET`;
without one the request is not signed. Redirects are not followed: they would carry the body to where nobody sent it.
"""  # noqa: E501

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, unquote, urlsplit

from pipelines.redaction import redacted, redacted_text
from pipelines.registry.anchor import record
from pipelines.registry.audit import Entry, actor, open_audit_log, utc_now
from pipelines.registry.tracking import open_client, tracking_uri

if TYPE_CHECKING:
    from pipelines.registry.outcome import PromotionOutcome

SECRET_VARIABLE = "VAMBA_WEBHOOK_SECRET"
DELIVER, FAIL = "hook.deliver", "hook.fail"
_TIMEOUT_S = 10.0
_PAUSES_S = (0.5, 2.0)
_WORTH_RETRYING = {408, 425, 429}


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """What became of one notification. url: without credentials. problem: "" when it was delivered."""

    url: str
    attempts: int
    problem: str


def check_urls(urls: Sequence[str]) -> None:
    """ValueError for what can't be notified, before anything is done. The message holds no credentials."""
    for url in urls:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"--notify {redacted(url)!r}: give an http:// or https:// address.")


def notify(outcome: PromotionOutcome, urls: Sequence[str], *, pauses_s: Sequence[float] = _PAUSES_S) -> list[Delivery]:
    """Tell every URL of a decision; what became of it is in the audit log, too. A hook that fails raises nothing."""
    body = json.dumps(payload(outcome), ensure_ascii=False).encode()
    deliveries = [_deliver(url, body, pauses_s) for url in urls]
    for delivery in deliveries:
        line = {
            "action": FAIL if delivery.problem else DELIVER,
            "version": outcome.version,
            "url": delivery.url,
            "attempts": delivery.attempts,
            **({"problem": delivery.problem} if delivery.problem else {}),
            "about": outcome.entry,
        }
        record(open_client(), open_audit_log(), outcome.name, partial(_as_it_is, line=line))
    return deliveries


def _as_it_is(entries: Sequence[Entry], *, line: Mapping[str, Any]) -> Mapping[str, Any]:
    return line


def payload(outcome: PromotionOutcome) -> dict[str, Any]:
    """What is sent."""
    return {
        "event": "model_version.decision",
        "decision": outcome.decision,
        "model": outcome.name,
        "version": outcome.version,
        "alias": outcome.alias,
        "previous": outcome.previous,
        "moved": outcome.moved,
        "reason": outcome.reason,
        "failed": [check.name for check in outcome.report.failed],
        "evaluations": list(outcome.report.evaluations),
        "registry": redacted(tracking_uri()),
        "run": outcome.tags.get("run", ""),
        "model_digest": outcome.tags.get("model_digest", ""),
        "audit_line": outcome.entry,
        "actor": actor(),
        "sent_at": utc_now(),
    }


def sign(secret: str, timestamp: str, body: bytes) -> str:
    """The value of X-Vamba-Signature; a receiver computes the same from X-Vamba-Timestamp and the raw body."""
    digest = hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()
    return f"sha256={digest}"


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *arguments: Any, **named: Any) -> None:
        return None


def _deliver(url: str, body: bytes, pauses_s: Sequence[float]) -> Delivery:
    problem = ""
    for attempt in range(1, len(pauses_s) + 2):
        problem, is_final = _attempt(url, body)
        if not problem or is_final or attempt > len(pauses_s):
            return Delivery(url=redacted(url), attempts=attempt, problem=problem)
        time.sleep(pauses_s[attempt - 1])
    raise AssertionError("unreachable")


def _attempt(url: str, body: bytes) -> tuple[str, bool]:
    """(what went wrong or "", whether trying again is of no use)."""
    try:
        parts = urlsplit(url)
        bare = SplitResult(parts.scheme, parts.netloc.rpartition("@")[2], parts.path, parts.query, "").geturl()
        request = urllib.request.Request(bare, data=body, headers=dict(_headers(parts, body)), method="POST")
        opener = urllib.request.build_opener(_NoRedirects)
        with opener.open(request, timeout=_TIMEOUT_S) as answer:
            answer.read(1024)
        return "", True
    except urllib.error.HTTPError as error:
        return f"HTTP {error.code}", error.code < 500 and error.code not in _WORTH_RETRYING
    except Exception as error:
        # A hook may fail in any way there is. The text of some errors holds the address.
        reason = getattr(error, "reason", None) or type(error).__name__
        return redacted_text(str(reason).replace(url, redacted(url)))[:200], isinstance(error, ValueError)


def _headers(parts: SplitResult, body: bytes) -> Iterator[tuple[str, str]]:
    timestamp = str(int(time.time()))
    yield "Content-Type", "application/json"
    yield "User-Agent", "vamba"
    yield "X-Vamba-Event", "model_version.decision"
    yield "X-Vamba-Timestamp", timestamp
    secret = os.environ.get(SECRET_VARIABLE, "")
    if secret:
        yield "X-Vamba-Signature", sign(secret, timestamp, body)
    if parts.username:
        account = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        yield "Authorization", "Basic " + base64.b64encode(account.encode()).decode()
