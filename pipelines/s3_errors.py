"""What an answer of S3 means: a missing object, a refused condition, or an error the user can act on.

`explain` turns an error of boto3 into one of this program's: FileNotFoundError, ValueError with bucket, rule and
remedy, ConnectionError for what may pass, or one of the classes here, which s3.py acts on.
"""

from __future__ import annotations

from typing import NoReturn


class Refused(Exception):
    """The condition of a request does not hold."""

    def __init__(self, was_retried: bool) -> None:
        super().__init__()
        self.was_retried = was_retried


class Conflict(Exception):
    """Another conditional request for the object was under way: to be tried again."""


class PastTheEnd(Exception):
    """The range of a request begins behind the last byte."""


def explain(error: Exception, bucket: str, path: str | None, operation: str) -> NoReturn:
    """Raises what an error of boto3 means to the caller."""
    from botocore import exceptions

    where = f"s3://{bucket}/{path}" if path else f"s3://{bucket}"
    if isinstance(error, (exceptions.NoCredentialsError, exceptions.PartialCredentialsError)):
        raise ValueError(
            f"no credentials for {where}: S3 needs a key; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a "
            "profile or role as for the aws command (on every machine of the cluster)"
        ) from error
    if not isinstance(error, exceptions.ClientError):
        if isinstance(error, (exceptions.HTTPClientError, exceptions.ConnectionError)):
            raise ConnectionError(f"{where}: the store does not answer ({error}); check AWS_ENDPOINT_URL") from error
        raise ValueError(f"{where}: {error}") from error
    answer = error.response
    code, metadata = str(answer.get("Error", {}).get("Code")), answer.get("ResponseMetadata", {})
    status = metadata.get("HTTPStatusCode")
    if code == "NoSuchBucket":
        raise ValueError(
            f"there is no bucket {bucket!r}: buckets are not made on the way; create it, or correct the URI and "
            "AWS_ENDPOINT_URL"
        ) from error
    if code in ("NoSuchKey", "NoSuchVersion") or (status == 404 and operation == "head_object"):
        raise FileNotFoundError(f"{where} does not exist") from error
    if status == 412:
        raise Refused(was_retried=metadata.get("RetryAttempts", 0) > 0) from error
    if status == 409 and operation == "put_object":
        raise Conflict from error
    if status == 416:
        raise PastTheEnd from error
    if status in (401, 403):
        raise ValueError(
            f"access to {where} is denied ({code}, {operation}): the key needs s3:GetObject, s3:PutObject, "
            "s3:DeleteObject, s3:AbortMultipartUpload, s3:ListBucket and s3:ListBucketMultipartUploads on the bucket; "
            "check the key, its expiry and the bucket's policy"
        ) from error
    if status in (301, 307, 400) and code in ("PermanentRedirect", "AuthorizationHeaderMalformed", "301", "307", "400"):
        raise ValueError(
            f"the bucket {bucket!r} is in another region ({code}); set AWS_REGION to its region"
        ) from error
    if status == 501:
        raise ValueError(
            f"the store of {where} does not know a part of the request ({code}): it needs conditional writes "
            "(If-None-Match and If-Match); use a store or a version of it that has them"
        ) from error
    raise ConnectionError(f"{where}: {error}") from error
