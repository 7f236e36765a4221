"""What the head of a response says, and what a failed request means."""

from __future__ import annotations

import email.message
import email.utils
import http.client
import re
import ssl
import time
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

import requests
import socks
import urllib3.exceptions

from tasks.transfer.errors import (
    BadCertificate,
    BadResponse,
    BadURL,
    OriginBusy,
    OriginUnreachable,
    ProxyRefused,
    SourceRefused,
    TransferError,
)
from tasks.transfer.manifest import Validator

if TYPE_CHECKING:
    from collections.abc import Mapping

_E = TypeVar("_E", bound=BaseException)

#: Statuses that ask to come back later, beside the 5xx (RFC 9110 section 15.5.9, RFC 8470, RFC 6585).
_BUSY_STATUSES = frozenset({408, 425, 429})
#: Content codings, and the endings of files that are stored so.
_SUFFIXES = {
    "gzip": (".gz", ".tgz", ".gzip", ".svgz", ".vcf.bgz", ".bgz"),
    "compress": (".z",),
    "deflate": (".zz",),
    "br": (".br",),
    "zstd": (".zst", ".tzst"),
    "bzip2": (".bz2", ".tbz", ".tbz2"),
    "xz": (".xz", ".txz"),
}
#: Codings that urllib3 undoes without further libraries.
_CAN_UNDO = frozenset({"gzip", "deflate"})
_FRESH_SECONDS = 60
#: 5xx that no waiting mends: not implemented, HTTP version not supported.
_FINAL_SERVER_ERRORS = frozenset({501, 505})
#: What http.client says of a proxy that answers CONNECT with a status that no waiting mends.
_TUNNEL_REFUSED = re.compile(r"Tunnel connection failed: (403|407)\b")


def check_status(response: requests.Response, name: str) -> None:
    """Raise what a status other than success or 416 means; the response is closed then.

    Status first: an error page carries no ETag, and must not read as a change of the file.
    """
    status = response.status_code
    if 200 <= status < 300 or status == requests.codes.requested_range_not_satisfiable:  # noqa: PLR2004
        return
    response.close()
    if status == requests.codes.proxy_authentication_required:
        raise ProxyRefused(name, str(status))
    if status in _BUSY_STATUSES or (status >= 500 and status not in _FINAL_SERVER_ERRORS):  # noqa: PLR2004
        raise OriginBusy(name, status, retry_after_seconds(response.headers, now=time.time()))
    raise SourceRefused(name, status, _printable(response.reason or ""))


def retry_after_seconds(headers: Mapping[str, str], *, now: float) -> float | None:
    """How long ``Retry-After`` asks to wait, in seconds or as a date; None without a readable one.

    Source: RFC 9110, section 10.2.3.
    """
    value = headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - now)
    except (ValueError, OverflowError):
        return None


def validator_of(response: requests.Response) -> Validator:
    """The strong entity tag, else the date of the last change (RFC 9110, section 8.8)."""
    etag = response.headers.get("ETag", "").strip()
    # A weak tag (W/"...") says that two versions are alike, not that their bytes are the same.
    strong = len(etag) > 1 and etag.startswith('"') and etag.endswith('"')
    return Validator(
        etag=etag if strong else None,
        weak_etag=etag if etag.startswith('W/"') else None,
        last_modified=response.headers.get("Last-Modified"),
        is_fresh=_is_fresh(response.headers),
    )


def _is_fresh(headers: Mapping[str, str]) -> bool:
    """Whether the last change may have been less than a minute before the answer (RFC 9110, section 8.8.2.2)."""
    try:
        sent = email.utils.parsedate_to_datetime(headers["Date"]).timestamp()
        changed = email.utils.parsedate_to_datetime(headers["Last-Modified"]).timestamp()
    except (KeyError, ValueError, OverflowError):
        return True
    return sent - changed < _FRESH_SECONDS


def content_length(response: requests.Response, name: str) -> int | None:
    """The body's length in bytes, or None where the head does not say it.

    Raises:
        BadResponse: it is not one number, or the body is framed in a way that is not undone.
    """
    value = response.headers.get("Content-Length")
    framing = response.headers.get("Transfer-Encoding", "identity")
    if framing.lower() == "chunked":
        return None
    if framing.lower() != "identity":
        # http.client undoes exactly "chunked": the framing of anything else would be taken for the file.
        response.close()
        raise BadResponse(name, f"Transfer-Encoding is {_printable(framing)!r}")
    if value is None:
        return None
    # Two equal ones in a list are one (RFC 9110, section 8.6).
    values = {item.strip() for item in value.split(",")}
    digits = values.pop()
    if values or not (digits.isascii() and digits.isdigit() and len(digits) < 19):  # noqa: PLR2004
        response.close()
        raise BadResponse(name, f"Content-Length is {_printable(value)!r}")
    return int(digits)


def coding_to_undo(response: requests.Response, name: str) -> str | None:
    """The content coding that a server applied though the plain file was asked for, or None.

    A file that is stored compressed is often labelled with its coding (``x.tar.gz``, gzip): then the label says what
    the file is, and undoing it would give another file than its name says. It may have that name in the submitted URL,
    in the URL that a redirect led to, or in the answer.
    """
    coding = response.headers.get("Content-Encoding", "").strip().lower()
    if coding in ("", "identity"):
        return None
    suffixes = _SUFFIXES.get(coding.removeprefix("x-"), ())
    names = (urlsplit(name).path, urlsplit(response.url).path, offered_name(response) or "")
    if any(each.lower().endswith(suffixes) for each in names):
        return None
    if coding.removeprefix("x-") not in _CAN_UNDO:
        response.close()
        raise BadResponse(name, f"it is encoded as {_printable(coding)!r}, and the plain file was asked for")
    return coding


def offered_name(response: requests.Response) -> str | None:
    """The file name in Content-Disposition, ``filename*`` first (RFC 6266); not cleaned."""
    value = response.headers.get("Content-Disposition")
    if not value:
        return None
    message = email.message.Message()
    message["Content-Disposition"] = value
    try:
        parameters = message.get_params(failobj=[], header="Content-Disposition")
        names = [value for key, value in parameters if key.lower() == "filename"]
        # get_filename takes the plain one, which is for those who cannot read the other (RFC 6266, section 4.3).
        names.sort(key=lambda name: isinstance(name, str))
        name = email.utils.collapse_rfc2231_value(names[0]).strip() if names else ""
    except (ValueError, LookupError):  # charsets of RFC 8187 that are none, or do not fit
        return None
    return name.encode("utf-8", "ignore").decode() or None


def broke_before_answer(error: requests.ConnectionError) -> bool:
    """Whether a connection that stood broke before a word of the answer came.

    A server may close a kept connection just as the next request is sent on it: asking once more, on a new
    connection, is right then (RFC 9112, section 9.3.1).
    """
    return bool(error.args) and isinstance(error.args[0], urllib3.exceptions.ProtocolError)


def as_transfer_error(error: Exception, name: str) -> TransferError:  # noqa: PLR0911  (a table of cases)
    """What an exception of requests means here. Its own text is not used: it carries the URL's query."""
    if isinstance(error, requests.exceptions.InvalidURL | requests.exceptions.InvalidSchema):
        return BadURL(f"{name} is not a URL that can be asked for.")
    if isinstance(error, ValueError) and not isinstance(error, requests.RequestException):
        return BadResponse(name, "its head makes no sense")
    if isinstance(error, requests.exceptions.SSLError):
        certificate = _find(error, ssl.SSLCertVerificationError)
        if certificate is not None:
            return BadCertificate(name, certificate.verify_message)
        return OriginUnreachable(name, "the TLS handshake failed")
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return OriginUnreachable(name, "it did not accept the connection in time")
    if isinstance(error, requests.exceptions.Timeout):
        return OriginUnreachable(name, "no answer came within the read timeout")
    proxys = _of_proxy(error, name)
    if proxys is not None:
        return proxys
    if _find(error, urllib3.exceptions.NameResolutionError) is not None:
        return OriginUnreachable(name, "the host's name is not known")
    if _find(error, http.client.LineTooLong) is not None:
        return BadResponse(name, "a line of its head is longer than 64 KiB")
    cause = _find(error, OSError)
    reason = cause.strerror if cause is not None and cause.strerror else "the connection broke"
    return OriginUnreachable(name, reason[:1].lower() + reason[1:])


def _of_proxy(error: Exception, name: str) -> TransferError | None:
    """What an exception means that a proxy is to blame for; None if none is."""
    refusal = _find(error, socks.SOCKS5AuthError) or _find(error, socks.SOCKS4Error)
    if refusal is not None:
        return ProxyRefused(name, "SOCKS authentication failed")
    if _find(error, socks.SOCKS5Error) is not None:
        return OriginUnreachable(name, "the SOCKS proxy could not connect to it")
    if _find(error, socks.ProxyError) is not None:
        return OriginUnreachable(name, "the SOCKS proxy could not be reached")
    if not isinstance(error, requests.exceptions.ProxyError):
        return None
    cause = _find(error, OSError)
    tunnel = _TUNNEL_REFUSED.search(str(cause))
    return ProxyRefused(name, tunnel[1]) if tunnel else OriginUnreachable(name, "the proxy did not connect")


def _find(error: BaseException, wanted: type[_E]) -> _E | None:
    """The first exception of that type among what `error` was made of, requests' own aside."""
    pending: list[object] = [error]
    seen: list[BaseException] = []
    while pending and len(seen) < 32:  # noqa: PLR2004
        current = pending.pop(0)
        # One exception is reached in several ways.
        if not isinstance(current, BaseException) or any(current is each for each in seen):
            continue
        if isinstance(current, wanted) and not isinstance(current, requests.RequestException):
            return current
        seen.append(current)
        pending += [getattr(current, "reason", None), current.__cause__, current.__context__, *current.args]
    return None


def _printable(text: str) -> str:
    return "".join(char for char in text[:80] if char.isprintable())
