"""Failures of S3: which ones are transient, and one-line messages for the others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from slowfast_core.errors import InputError

ADDRESS = "check data.source and data.endpoint_url"
NETWORK = "check data.source, data.endpoint_url and the network; a rerun resumes from the finished files"
STILL = "run again when the source no longer changes"
PERMIT = (
    "grant these credentials s3:ListBucket and s3:GetObject; for a requester-pays bucket, set data.requester_pays: true"
)
KEYS = "correct AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
RENEW = "renew them (`aws sso login`, or a new AWS_SESSION_TOKEN); a rerun resumes from the finished files"

MESSAGES = {
    "NoSuchBucket": ("no such bucket", ADDRESS),
    "InvalidBucketName": ("not the name of a bucket", ADDRESS),
    "AccessDenied": ("access denied", PERMIT),
    "403": ("access denied", PERMIT),
    "InvalidAccessKeyId": ("the access key does not exist", KEYS),
    "SignatureDoesNotMatch": ("the secret key does not belong to the access key", KEYS),
    "ExpiredToken": ("the credentials have expired", RENEW),
    "InvalidToken": ("the session token is not valid", RENEW),
    "RequestTimeTooSkewed": ("the clock of this machine is wrong", "correct the clock"),
    "InvalidObjectState": ("the object is archived", "restore it from its storage class first"),
    "PreconditionFailed": ("the object changed while it was read", STILL),
    "412": ("the object changed while it was read", STILL),
    "NoSuchKey": ("the object was removed while it was read", STILL),
    "404": ("the object was removed while it was read", STILL),
}


class TornError(Exception):
    """The response is incomplete."""


class WrongContentError(Exception):
    """The response is complete, but not the content of the object."""


def is_transient(error: Exception) -> bool:
    """Whether another attempt may succeed."""
    import urllib3
    from botocore import exceptions

    if isinstance(error, exceptions.ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return status >= 500 or status == 429 or _code(error) in ("SlowDown", "RequestTimeout", "Throttling")
    ours = (TornError, WrongContentError)
    network = (exceptions.ConnectionError, exceptions.HTTPClientError, urllib3.exceptions.HTTPError)
    return isinstance(error, (*ours, *network, exceptions.IncompleteReadError, exceptions.FlexibleChecksumError))


def changed_error(where: str) -> InputError:
    """The error for an object that changed during a read."""
    what, fix = MESSAGES["PreconditionFailed"]
    return InputError(what, where, fix)


@contextmanager
def s3_in_one_line(where: str) -> Iterator[None]:
    """Raise failures of S3 as InputError."""
    import urllib3
    from botocore import exceptions

    try:
        yield
    except exceptions.ClientError as error:
        default = NETWORK if is_transient(error) else "check the credentials and their permissions"
        what, fix = MESSAGES.get(_code(error), (f"S3 refused: {_line(error)}", default))
        raise InputError(what, where, fix) from None
    except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError, exceptions.ProfileNotFound) as error:
        fix = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        raise InputError(_line(error), where, fix) from None
    except (
        exceptions.CredentialRetrievalError,
        exceptions.SSOError,
        exceptions.TokenRetrievalError,
        exceptions.LoginError,
    ) as error:
        raise InputError(_line(error), where, RENEW) from None
    except exceptions.EndpointConnectionError as error:
        raise InputError(_unreachable(error), where, NETWORK) from None
    except (exceptions.BotoCoreError, urllib3.exceptions.HTTPError, TornError, WrongContentError) as error:
        raise InputError(_line(error), where, NETWORK) from None


def _unreachable(error: Exception) -> str:
    """The message for an unreachable endpoint: an unknown host name or a server that is down."""
    from urllib3.exceptions import NameResolutionError

    kwargs = getattr(error, "kwargs", {})
    url = str(kwargs.get("endpoint_url", "")).partition("?")[0]
    if isinstance(kwargs.get("error"), NameResolutionError):
        return f"unknown host name in {url}"
    return f"could not connect to {url}"


def _code(error: Exception) -> str:
    code = str(getattr(error, "response", {}).get("Error", {}).get("Code", ""))
    return "ExpiredToken" if code in ("ExpiredTokenException", "RequestExpired", "TokenRefreshRequired") else code


def _line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")
