"""What the answers of an S3 server mean: one table from error code and HTTP status to a named error and what to do.

Only what can pass is worth asking again: a server that is busy or broken, a connection that broke. An answer that says
no is an answer: it becomes the error that names its cause at once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

from botocore import exceptions as boto_errors
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from datalake.errors import (
    BucketNotFoundError,
    ClockSkewError,
    CredentialsError,
    DatalakeError,
    LakePathError,
    ObjectTooLargeError,
    ProbeError,
    RegionError,
    StoreRefusedError,
    StoreUnavailableError,
)
from datalake.store.interface import missing

# A connection refused, reset or timed out, or a body cut off half-way: whether the call took effect is unknown.
# urllib3's own error comes through where botocore reads the body of an error answer to GetObject.
_BROKEN = (
    boto_errors.ConnectionError, boto_errors.HTTPClientError, boto_errors.IncompleteReadError,
    boto_errors.FlexibleChecksumError, HTTPError,
)  # fmt: skip
_NO_CREDENTIALS = (boto_errors.NoCredentialsError, boto_errors.PartialCredentialsError)
# The chain has credentials, but what it asks for them (a metadata service, a program, a login) gave none.
_NOT_REFRESHED = (
    boto_errors.CredentialRetrievalError, boto_errors.MetadataRetrievalError, boto_errors.SSOError,
    boto_errors.RefreshWithMFAUnsupportedError, boto_errors.InvalidConfigError, boto_errors.InfiniteLoopConfigError,
    boto_errors.ConfigNotFound, boto_errors.ConfigParseError, boto_errors.ProfileNotFound,
    boto_errors.UnknownCredentialError, RuntimeError,
)  # fmt: skip

S3_FAILURES = (boto_errors.ClientError, boto_errors.BotoCoreError, HTTPError, ResponseParserError, RuntimeError)
"""What a call of the client may raise; see ``is_ours``."""

_PASSES = {
    "BadDigest", "BandwidthLimitExceeded", "ConditionalRequestConflict", "EC2ThrottledException", "IncompleteBody",
    "InternalError", "InternalFailure", "KMS.ThrottlingException", "OperationAborted", "PriorRequestNotComplete",
    "RequestLimitExceeded", "RequestThrottled", "RequestThrottledException", "RequestTimeout",
    "RequestTimeoutException", "ServiceUnavailable", "SlowDown", "SlowDownRead", "SlowDownWrite", "Throttled",
    "ThrottledException", "Throttling", "ThrottlingException", "TooManyRequests", "TooManyRequestsException",
    "TransactionInProgressException",
}  # fmt: skip
_STATUS_PASSES = {408, 409, 425, 429}  # and 500 to 599 but for these, which say what the server can never do:
_STATUS_NEVER = {501, 505, 507}

ABSENT = {"NoSuchKey", "404", "NotFound"}
TAKEN = {"PreconditionFailed", "412"}
OUT_OF_RANGE = {"InvalidRange", "416"}
_REPLACED = {"InvalidAccessKeyId", "InvalidClientTokenId", "InvalidToken", "UnrecognizedClientException"}
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"}


class _Meaning(NamedTuple):
    error: type[DatalakeError]
    found: str
    advice: str


_KEYS = "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or the profile in AWS_PROFILE"
_SIGNED = _Meaning(
    CredentialsError,
    "the store refused the credentials",
    f"{_KEYS}; some stores answer so to a wrong region, too: it is {{region}} here (AWS_REGION)",
)
_UNKNOWN_KEY = _Meaning(CredentialsError, "the store refused the credentials", _KEYS)
_FORBIDDEN = _Meaning(
    CredentialsError,
    "the store refused the credentials for this: they may not {action}",
    "let the bucket's policy or the role allow {action}, or use other credentials (AWS_ACCESS_KEY_ID, AWS_PROFILE)",
)
_OUT_OF_DATE = _Meaning(
    CredentialsError,
    "the temporary credentials have expired, and asking where they came from gave no newer ones",
    "get new ones (for example `aws sso login`, or a new AWS_SESSION_TOKEN with its two keys) and run again",
)
_CLOCK = _Meaning(
    ClockSkewError,
    "this machine's clock is off{skew}, so the store refuses every request",
    "set the clock (NTP: `timedatectl set-ntp true`, or `chronyc makestep`) and run again",
)
_REGION = _Meaning(
    RegionError,
    "the bucket is not in region {region}, for which requests are signed here{told}",
    "set AWS_REGION to {right}",
)
_NO_BUCKET = _Meaning(
    BucketNotFoundError, "bucket {bucket!r} does not exist", "create it, or correct the lake's address or the endpoint"
)
_BAD_BUCKET = _Meaning(LakePathError, "{bucket!r} cannot be the name of a bucket", "correct the lake's address")
_NO_S3 = _Meaning(
    BucketNotFoundError,
    "there is no bucket {bucket!r} at {endpoint}, or no S3 server",
    "correct the lake's address, or AWS_ENDPOINT_URL_S3",
)
_TOO_LARGE = _Meaning(
    ObjectTooLargeError,
    "the store takes no {size} bytes in one request",
    "raise its limit (a proxy before it may set one, too), or write smaller objects",
)
_FULL = _Meaning(StoreRefusedError, "the store or its quota is full", "make room or raise the quota, then run again")
_ARCHIVED = _Meaning(StoreRefusedError, "the object is archived", "restore it to a class that can be read at once")
_KMS = _Meaning(
    StoreRefusedError,
    "the key that the bucket is encrypted with cannot be used",
    "let these credentials use the KMS key, and see that it is enabled",
)
_LOCKED = _Meaning(
    StoreRefusedError,
    "the store does not let this object be replaced or removed (object lock or retention)",
    "lift it for data/, pulses/, probe/ and checkpoints/, or leave housekeeping to the store",
)
_UPLOADS = _Meaning(
    StoreRefusedError,
    "the store does not understand uploads with these checksums",
    "set AWS_REQUEST_CHECKSUM_CALCULATION and AWS_RESPONSE_CHECKSUM_VALIDATION to when_required",
)
_CONDITION = _Meaning(
    ProbeError,
    "the store does not know conditional writes (If-None-Match), so it cannot hold a lake",
    "use one that has them, such as AWS S3, or MinIO, Ceph or SeaweedFS of today; `morphogen probe` tests a store",
)
_NOT_KNOWN = _Meaning(StoreRefusedError, "the store does not implement this request", "use a store that does")
_OTHER = _Meaning(
    StoreRefusedError,
    "the store refused the request",
    "check the endpoint ({endpoint}) and the bucket's settings: asking again would give the same answer",
)

_BY_CODE: dict[str, _Meaning] = {
    **dict.fromkeys(_EXPIRED, _OUT_OF_DATE),
    **dict.fromkeys(("SignatureDoesNotMatch", "InvalidSignatureException", "AuthFailure"), _SIGNED),
    **dict.fromkeys(
        ("AccountProblem", "CredentialsNotSupported", "InvalidAccessKeyId", "InvalidClientTokenId", "InvalidSecurity",
         "InvalidToken", "NotSignedUp", "Unauthorized", "UnrecognizedClientException", "401"), _UNKNOWN_KEY
    ),
    **dict.fromkeys(("AccessDenied", "AccessDeniedException", "AllAccessDisabled", "Forbidden", "403"), _FORBIDDEN),
    **dict.fromkeys(("RequestTimeTooSkewed", "RequestExpired", "RequestInTheFuture"), _CLOCK),
    **dict.fromkeys(
        ("IllegalLocationConstraintException", "IncorrectEndpoint", "InvalidRegion", "PermanentRedirect", "Redirect",
         "TemporaryRedirect", "301", "302", "307", "308"), _REGION
    ),
    "NoSuchBucket": _NO_BUCKET,
    "InvalidBucketName": _BAD_BUCKET,
    **dict.fromkeys(ABSENT, _NO_S3),
    **dict.fromkeys(("EntityTooLarge", "413"), _TOO_LARGE),
    **dict.fromkeys(
        ("507", "BucketQuotaExceeded", "InsufficientStorage", "QuotaExceeded", "QuotaExceededException",
         "XMinioAdminBucketQuotaExceeded", "XMinioStorageFull"), _FULL
    ),
    "InvalidObjectState": _ARCHIVED,
    **dict.fromkeys(("InvalidRetention", "ObjectLocked"), _LOCKED),
    **dict.fromkeys(("NotImplemented", "501"), _NOT_KNOWN),
    "XAmzContentSHA256Mismatch": _UPLOADS,
}  # fmt: skip
_ABOUT_CONDITIONS = re.compile("if-none-match|precondition|conditional", re.IGNORECASE)
_ABOUT_UPLOADS = re.compile("aws-chunked|chunk|checksum|trailer|x-amz-sdk|content-sha256|streaming", re.IGNORECASE)
_ABOUT_REGIONS = re.compile("region|scope|location", re.IGNORECASE)
_NOT_TRUSTED = re.compile("CERTIFICATE_VERIFY_FAILED|WRONG_VERSION_NUMBER|doesn't match|not valid for", re.IGNORECASE)
_ACTIONS = {
    "GetObject": "s3:GetObject", "HeadObject": "s3:GetObject", "PutObject": "s3:PutObject",
    "DeleteObject": "s3:DeleteObject", "ListObjectsV2": "s3:ListBucket",
}  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """What was asked of which store: the lake's address, the object's key ("" for the lake), and the client's settings.

    ``conditional``: with ``If-None-Match``. ``now`` is the local clock. ``size``: the bytes of an object to be written.
    """

    uri: str
    bucket: str
    key: str
    region: str
    endpoint: str
    now: datetime
    conditional: bool = False
    size: int = 0

    @property
    def what(self) -> str:
        return f"object {self.key} of lake {self.uri}" if self.key else f"lake {self.uri}"


def code_of(error: Exception) -> str:
    """The error code of an answer, or its status where it has no body; "" for other errors."""
    if not isinstance(error, boto_errors.ClientError):
        return ""
    return str(error.response.get("Error", {}).get("Code", "")) or str(_status(error))


def tells_nothing(error: boto_errors.ClientError) -> bool:
    """Whether the answer is a refusal without a code that says why, as every answer to a HEAD request is."""
    return code_of(error).isdigit() and not may_pass(error) and code_of(error) not in ABSENT


def is_ours(error: Exception) -> bool:
    """Whether one of ``S3_FAILURES`` is a failure of S3. Of RuntimeErrors only two are: botocore raises one when what
    it got as new credentials has expired, too, and recurs without end where a server redirects whatever it is asked."""
    return not isinstance(error, RuntimeError) or _is_redirect(error) or "refreshed credentials" in str(error)


def has_newer_credentials(error: Exception) -> bool:
    """Whether the answer is about credentials that may have been replaced where they came from."""
    return code_of(error) in _EXPIRED | _REPLACED


def may_pass(error: Exception) -> bool:
    """Whether asking again may help: the server was busy or broken, or did not get to answer."""
    if isinstance(error, boto_errors.ClientError):
        code, status = code_of(error), _status(error)
        if code in _PASSES:
            return True
        if code in _BY_CODE and not code.isdigit():
            return False
        return status in _STATUS_PASSES or (status >= 500 and status not in _STATUS_NEVER)
    return isinstance(error, _BROKEN) and not _is_certificate(error)


def region_told(answer: Mapping[str, Any]) -> str | None:
    """The region that an answer says the bucket is in, if it says so."""
    headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    error = answer.get("Error", {})
    found = headers.get("x-amz-bucket-region") or error.get("Region")
    if not found and error.get("Code") == "AuthorizationHeaderMalformed":
        named = re.search(r"expecting '([A-Za-z0-9-]+)'", str(error.get("Message", "")))
        found = named[1] if named else None
    return str(found) if found else None


def named_error(error: Exception, asked: Asked) -> DatalakeError:
    """The error of ours that says what happened and what to do. Never repeats a secret."""
    if isinstance(error, boto_errors.ClientError):
        if error.operation_name not in _ACTIONS:  # the chain asked another service for credentials
            return _not_refreshed(f"{error.operation_name}: {code_of(error)}", asked)
        return _unreachable(error, asked) if may_pass(error) else _refused(error, asked)
    if isinstance(error, _NO_CREDENTIALS):
        return CredentialsError(
            f"lake {asked.uri}: no credentials found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile"
        )
    if isinstance(error, boto_errors.ParamValidationError):
        return LakePathError(f"lake {asked.uri}: {_line(error)}")
    if isinstance(error, ResponseParserError):
        return no_s3_server(asked)
    if _is_certificate(error):
        return StoreRefusedError(
            f"{asked.what}: no trusted encrypted connection to {asked.endpoint} ({_line(error)}): name the authority "
            "that signed the store's certificate in AWS_CA_BUNDLE, or correct https:// in AWS_ENDPOINT_URL_S3"
        )
    if _is_redirect(error):
        return RegionError(
            f"{asked.what}: {asked.endpoint} answers every request with a redirect: correct AWS_ENDPOINT_URL_S3 "
            f"(https:// in place of http://?), or set AWS_REGION, {asked.region} here, to the bucket's region"
        )
    if isinstance(error, _NOT_REFRESHED):
        return _not_refreshed(_line(error), asked)
    return _unreachable(error, asked)


def no_s3_server(asked: Asked) -> StoreRefusedError:
    """The error for an answer that is none of S3."""
    return StoreRefusedError(
        f"{asked.what}: what answers at {asked.endpoint} is no S3 server: correct AWS_ENDPOINT_URL_S3"
    )


def _refused(error: boto_errors.ClientError, asked: Asked) -> DatalakeError:
    code, answer = code_of(error), error.response
    if code in ABSENT and asked.key:
        return missing(asked.uri, asked.key)
    message = str(answer.get("Error", {}).get("Message", ""))
    meaning = _meaning(code, message, str(answer.get("Error", {}).get("Header", "")), asked)
    told = region_told(answer)
    found, advice = (
        text.format(
            action=_ACTIONS[error.operation_name],
            skew=_skew(answer, asked.now),
            region=asked.region,
            told=f", but in {told}" if told and told != asked.region else "",
            right=told if told and told != asked.region else "the bucket's region (its owner or the provider knows it)",
            bucket=asked.bucket,
            endpoint=asked.endpoint,
            size=asked.size,
        )
        for text in (meaning.found, meaning.advice)
    )
    # What a store says about credentials may repeat them.
    said = "" if meaning.error is CredentialsError or not message else f": {_line(message)}"
    return meaning.error(f"{asked.what}: {found} ({code}{said}): {advice}")


def _meaning(code: str, message: str, header: str, asked: Asked) -> _Meaning:
    if code == "AuthorizationHeaderMalformed":
        return _REGION if _ABOUT_REGIONS.search(message) else _SIGNED
    if code.startswith("KMS") or ".KMS" in code:
        return _KMS
    if code in ("NotImplemented", "501", "InvalidArgument", "InvalidRequest", "400"):
        if _ABOUT_UPLOADS.search(message):
            return _UPLOADS
        unknown = code in ("NotImplemented", "501")
        if asked.conditional and (unknown or _ABOUT_CONDITIONS.search(f"{header} {message}")):
            return _CONDITION
    return _BY_CODE.get(code, _OTHER)


def _skew(answer: Mapping[str, Any], now: datetime) -> str:
    """By how much, where the answer's Date header shows it."""
    date = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    try:
        behind = (parsedate_to_datetime(str(date)) - now).total_seconds()
    except (TypeError, ValueError):
        return ""
    minutes = round(abs(behind) / 60)
    return f" ({minutes} minutes {'behind' if behind > 0 else 'ahead of'} the store's)" if minutes else ""


def _unreachable(error: Exception, asked: Asked) -> StoreUnavailableError:
    unsure = "; whether a write in flight happened is unknown, and running again makes sure" if asked.key else ""
    return StoreUnavailableError(
        f"{asked.what}: the store did not answer ({type(error).__name__}: {_line(error)}): check AWS_ENDPOINT_URL_S3 "
        f"and the network, then run again{unsure}"
    )


def _not_refreshed(reason: str, asked: Asked) -> CredentialsError:
    return CredentialsError(
        f"lake {asked.uri}: the credentials could not be had or refreshed ({reason}): log in again (for example "
        "`aws sso login`), or correct the profile, role or program in the AWS configuration that they come from"
    )


def _is_certificate(error: Exception) -> bool:
    return isinstance(error, boto_errors.SSLError) and _NOT_TRUSTED.search(str(error)) is not None


def _is_redirect(error: Exception) -> bool:
    return isinstance(error, RecursionError)


def _status(error: boto_errors.ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _line(text: object) -> str:
    line = " ".join(str(text).split())
    return line if len(line) <= 300 else f"{line[:297]}..."
