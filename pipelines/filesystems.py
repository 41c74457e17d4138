"""Where a URI leads: one file system interface (fsspec's) for local paths, `s3://` and every other scheme.

`filesystem_of(uri)` gives the file system and the path in it. S3 is pyarrow's client under fsspec's interface, set up
by the same AWS_* variables as `pipelines.storage`; the rest is what fsspec knows, where its packages are installed.
A file system is made once per process and set of variables. fsspec is imported with the first URI.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from pipelines.redaction import addresses_in, is_signing, user_end

if TYPE_CHECKING:
    import fsspec

_PACKAGES = {"smbclient": "smbprotocol", "libarchive": "libarchive-c"}  # by the module, where the names differ


def scheme_of(uri: str) -> str:
    """The scheme of a URI, in lower case; "file" for a plain path."""
    scheme, separator, _ = uri.partition("://")
    return scheme.lower() if separator else "file"


def is_local(uri: str) -> bool:
    """Whether a URI names a file of the local (or mounted) file system."""
    return scheme_of(uri) == "file"


def local_path(uri: str) -> Path:
    """The absolute path that a plain path or a `file://` URI names."""
    return Path(uri.removeprefix("file://")).expanduser().absolute()


def filesystem_of(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system that a URI leads to, and the path in it.

    Raises:
        ValueError: nothing is known about the scheme, or its package is not installed.
    """
    scheme = scheme_of(uri)
    if scheme == "file":
        return _local_filesystem(), str(local_path(uri))
    if scheme == "s3":
        return _s3_filesystem(_s3_options()), uri.partition("://")[2].strip("/")
    return _other_filesystem(scheme, uri)


def check_no_credentials(uri: str, place: str) -> None:
    """Refuses a URI that carries credentials: it would be stored with the dataset, for every reader to see.

    Raises:
        ValueError: there is a user before the host, or a parameter under which links are signed.
    """
    if "://" not in uri:
        return
    remedy = "credentials come from the environment (AWS_* variables for s3://), never from an address"
    for address in addresses_in(uri):
        scheme, _, rest = address.partition("://")
        end = user_end(rest)
        path, _, query = rest[end:].partition("#")[0].partition("?")
        if end:
            raise ValueError(
                f"{place}: the address {scheme}://…@{path} carries a user or password, which would be stored with the "
                f"dataset; {remedy}"
            )
        for name, _ in parse_qsl(query, keep_blank_values=True):
            if is_signing(name):
                raise ValueError(
                    f"{place}: the address {scheme}://{path}?… is signed (parameter {name!r}), and the signature would "
                    f"be stored with the dataset; name the object itself, {remedy}"
                )


def _s3_options() -> tuple[tuple[str, str], ...]:
    options: dict[str, str] = {}
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint:
        scheme, _, host = endpoint.rstrip("/").rpartition("://")
        options = {"endpoint_override": host, "scheme": scheme or "https"}
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if region:
        options["region"] = region
    return tuple(sorted(options.items()))


@functools.cache
def _local_filesystem() -> fsspec.AbstractFileSystem:
    import fsspec

    return fsspec.filesystem("file")


@functools.lru_cache(maxsize=32)
def _s3_filesystem(options: tuple[tuple[str, str], ...]) -> fsspec.AbstractFileSystem:
    from fsspec.implementations.arrow import ArrowFSWrapper
    from pyarrow import fs

    return ArrowFSWrapper(fs.S3FileSystem(**dict[str, Any](options)), skip_instance_cache=True)


def _other_filesystem(scheme: str, uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    import fsspec
    from fsspec.registry import known_implementations

    if scheme not in fsspec.available_protocols():
        raise ValueError(
            f"nothing is known about the scheme {scheme}://; use a local path, s3://, or a scheme that fsspec knows "
            "(gs://, http://, https://, …)"
        )
    try:
        return fsspec.core.url_to_fs(uri, use_listings_cache=False)
    except ImportError as error:
        # fsspec's own classes raise for the package they wrap; the others are packages themselves.
        module = str(known_implementations[scheme]["class"]).partition(".")[0]
        missing = getattr(error.__cause__ or error.__context__ or error, "name", None) if module == "fsspec" else module
        module = str(missing or scheme).partition(".")[0]
        package = _PACKAGES.get(module, module.replace("_", "-"))
        raise ValueError(
            f"{scheme}:// needs the Python package {package!r}, which is not installed: pip install {package} "
            "(on every machine of the cluster)"
        ) from error
    except (OSError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"the file system of {scheme}:// cannot be reached: {reason}; check the address") from error
