"""Failures of S3: which of them pass, and each of the others in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from slowfast_core.errors import InputError

ADDRESS = "check data.source and data.endpoint_url"
NETWORK = "check data.source, data.endpoint_url and the network; a rerun goes on from the finished files"
STILL = "run again when the source is still"
PERMIT = (
    "let these credentials list and read it (s3:ListBucket, s3:GetObject); where the requester pays, set "
    "data.requester_pays: true"
)
KEYS = "correct AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
RENEW = "renew them (`aws sso login`, or a new AWS_SESSION_TOKEN); a rerun goes on from the finished files"

TOLD = {
    "NoSuchBucket": ("no such bucket", ADDRESS),
    "InvalidBucketName": ("not the name of a bucket", ADDRESS),
    "AccessDenied": ("access denied", PERMIT),
    "403": ("access denied", PERMIT),
    "InvalidAccessKeyId": ("the access key is unknown here", KEYS),
    "SignatureDoesNotMatch": ("the secret key does not belong to the access key", KEYS),
    "ExpiredToken": ("the credentials have expired", RENEW),
    "InvalidToken": ("the session token is not valid", RENEW),
    "RequestTimeTooSkewed": ("the clock of this machine is wrong", "set it"),
    "InvalidObjectState": ("the object is archived", "restore it from its storage class first"),
    "PreconditionFailed": ("it was changed while it was read", STILL),
    "412": ("it was changed while it was read", STILL),
    "NoSuchKey": ("it was removed while it was read", STILL),
    "404": ("it was removed while it was read", STILL),
}


class TornError(Exception):
    """The body that came is not all that was asked for."""


class WrongContentError(Exception):
    """All has come, and it is not the object."""


def is_transient(error: Exception) -> bool:
    """Whether another attempt may do better."""
    import urllib3
    from botocore import exceptions

    if isinstance(error, exceptions.ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return status >= 500 or status == 429 or _code(error) in ("SlowDown", "RequestTimeout", "Throttling")
    ours = (TornError, WrongContentError)
    network = (exceptions.ConnectionError, exceptions.HTTPClientError, urllib3.exceptions.HTTPError)
    return isinstance(error, (*ours, *network, exceptions.IncompleteReadError, exceptions.FlexibleChecksumError))


def changed(where: str) -> InputError:
    what, mend = TOLD["PreconditionFailed"]
    return InputError(what, where, mend)


@contextmanager
def s3_in_one_line(where: str) -> Iterator[None]:
    """Tell the failures of S3 as InputError."""
    import urllib3
    from botocore import exceptions

    try:
        yield
    except exceptions.ClientError as error:
        otherwise = NETWORK if is_transient(error) else "check the credentials and what they permit"
        what, mend = TOLD.get(_code(error), (f"S3 refused: {_line(error)}", otherwise))
        raise InputError(what, where, mend) from None
    except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError, exceptions.ProfileNotFound) as error:
        mend = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        raise InputError(_line(error), where, mend) from None
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
    """A name that nobody knows is another mistake than a server that is down."""
    from urllib3.exceptions import NameResolutionError

    kwargs = getattr(error, "kwargs", {})
    url = str(kwargs.get("endpoint_url", "")).partition("?")[0]
    if isinstance(kwargs.get("error"), NameResolutionError):
        return f"DNS does not know the host of {url}"
    return f"could not connect to {url}"


def _code(error: Exception) -> str:
    code = str(getattr(error, "response", {}).get("Error", {}).get("Code", ""))
    return "ExpiredToken" if code in ("ExpiredTokenException", "RequestExpired", "TokenRefreshRequired") else code


def _line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")
