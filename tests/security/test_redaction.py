"""What the one redaction takes out of addresses and texts, and what it leaves."""

from __future__ import annotations

import json
from urllib.parse import quote_plus

import pytest

from pipelines.filesystems import check_no_credentials
from pipelines.redaction import redacted, redacted_text, redacted_values
from pipelines.storage import open_storage

ADDRESSES = (
    "postgresql://vamba:pa55word@db:5432/mlflow",
    "postgresql+psycopg2://vamba:pa55word@db/mlflow",
    "https://user:pa55word@host:1/p?x=1",
    "s3://AKIAKEY:pa55word@bucket/prefix",
    "https://pa55word@host/p",
    "https://user:pa55word%2F@host/p",
    "https://bucket.s3/x.mp4?X-Amz-Credential=a&X-Amz-Signature=pa55word",
    "https://account.blob/x.mp4?sv=1&sig=pa55word&se=2",
    "https://host/x.mp4?a=b&token=pa55word",
    "https://host/x?access_token=pa55word#part",
    # Nobody escapes what the key of a store is full of.
    "s3://AKIAKEY:abc/pa55word+x@bucket/prefix",
    "postgresql://vamba:1a/pa55word@db/mlflow",
    "https://user:a#pa55word@host/x",
    "https://user:a?pa55word@host/x",
    "git+https://pa55word@host/team/project@v1.0",
    "https://host/x?hdnts=exp~hmac=pa55word",
    "https://host/x?sign=pa55word",
    "https://host/x?X-Auth-Token=pa55word",
    "https://host/x?subscription-key=pa55word",
    "simplecache::https://user:pa55word@host/x.mp4",
    "zip://a.mp4::https://user:pa55word@host/x.zip",
)


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize(
    "frame", ["{}", "GET {} failed", "({}), twice: {}", "'{}'", '{{"uri": "{}"}}', "a\n{}\nb", "Max retries ({}): why"]
)
def test_credentials_are_taken_out_of_any_text(address: str, frame: str) -> None:
    shown = redacted_text(frame.format(address, address))
    assert "pa55word" not in shown
    assert address.partition("://")[0] + "://" in shown
    assert "pa55word" not in redacted(address)


def test_a_request_target_without_its_host_is_recognised() -> None:
    """As urllib3 quotes it."""
    text = "HTTPSConnectionPool(host='b', port=443): Max retries exceeded with url: /a.mp4?X-Amz-Signature=pa55word (x)"
    assert "pa55word" not in redacted_text(text)


@pytest.mark.parametrize(
    "text",
    [
        "loss 2.5 at step 4, see https://host/docs?page=2#part",
        "s3://bucket/path/a@b.mp4 is damaged",
        "mail me@host.org, or key=value; token bucket",
        "models:/toy@champion",
        "file:///data/user@host/a.mp4",
        "http://127.0.0.1:5000",
        "http://127.0.0.1:9000/videos/a@b.mp4",
        "http://[::1]:9000/videos/a@b.mp4?page=2",
        "https://web.archive.org/web/2020/https://host/a@b",
        "num_tokens=4 of https://host/x?num_tokens=4",
    ],
)
def test_the_rest_stays_as_it_is(text: str) -> None:
    assert redacted_text(text) == text


@pytest.mark.parametrize(
    "address",
    [
        "sqlite:////data/mlflow.db",
        "s3://bucket/a/b",
        "http://127.0.0.1:5000",
        "/a?b#c",
        "http://h:1/a@b",
        "a://b/1://c",
    ],
)
def test_an_address_without_secrets_stays_as_it_is(address: str) -> None:
    assert redacted(address) == address


@pytest.mark.parametrize(
    "name",
    [
        *("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN", "MLFLOW_TRACKING_PASSWORD", "VAMBA_WEBHOOK_SECRET"),
        *(
            "PGPASSWORD",
            "AZURE_STORAGE_KEY",
            "AZURE_STORAGE_CONNECTION_STRING",
            "REDISCLI_AUTH",
            "MYSQL_PWD",
            "DB_PASS",
        ),
    ],
)
def test_values_of_secret_variables_are_taken_out(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "wJalrXUtnFEMI/K7MDENG")
    values = redacted_values(
        {"a": ["said wJalrXUtnFEMI/K7MDENG", 1], "b": {"c": ("wJalrXUtnFEMI/K7MDENG",)}, "d": None}
    )
    assert "wJalr" not in str(values)
    assert values["a"][1] == 1 and values["d"] is None


def test_a_password_is_taken_out_where_it_stands_without_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://vamba:pa55%2Fword-x@db/mlflow")
    for said in ("password=pa55/word-x host=db", "tried pa55%2Fword-x"):
        assert "word-x" not in redacted_text(said)


@pytest.mark.parametrize(
    "value",
    ["pa55word-planted\n", "  pa55word-planted\r\n", 'pa55word-"planted', "pa55word-'\\planted", "pa55word planted é"],
)
def test_values_are_found_as_others_quote_them(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", value)
    bare = value.strip()
    for said in (
        f"header {value!r}",
        f"header {bare}",
        json.dumps({"a": bare}),
        f"{value.encode()!r}",
        quote_plus(bare),
    ):
        assert "planted" not in redacted_text(said), said


def test_each_line_of_a_key_is_taken_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPLOY_KEY", "-----BEGIN KEY-----\nMIIplanted1/x\nMIIplanted2+y\n-----END KEY-----\n")
    assert "planted" not in redacted_text("can't parse 'MIIplanted1/x\\nMIIplanted2+y'")


def test_variables_that_hold_no_secret_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PWD", "OLDPWD", "GIT_ASKPASS", "RAY_AUTH_MODE", "TOKENIZERS_PARALLELISM", "SSH_AUTH_SOCK", "KEYMAP"):
        monkeypatch.setenv(name, "/data/a-usual-value")
    monkeypatch.setenv("ENDPOINT", "http://127.0.0.1:9000/a@b")
    assert redacted_text("in /data/a-usual-value") == "in /data/a-usual-value"


@pytest.mark.parametrize("address", [address for address in ADDRESSES if not address.startswith("postgres")])
def test_what_would_be_stored_is_refused_without_quoting_it(address: str) -> None:
    for refuse in (lambda: check_no_credentials(address, "a source"), lambda: open_storage(address)):
        with pytest.raises(ValueError, match="credentials come from the environment") as error:
            refuse()
        assert "pa55word" not in str(error.value)
