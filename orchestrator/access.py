"""What goes with a URL to its origin: read from options and files of the submitting host, checked, to be sealed."""

from __future__ import annotations

import http.cookiejar
import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit, urlunsplit

from tasks.transfer.errors import BadOption, BadURL, origin_of
from tasks.transfer.manifest import Cookie, SourceRequest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_OWN_HEADERS = frozenset(
    {
        "accept-encoding", "connection", "content-length", "host", "if-range", "range", "te", "transfer-encoding"
    }
)  # fmt: skip
_PROXY_SCHEMES = frozenset({"http", "https", "socks4", "socks4a", "socks5", "socks5h"})


@dataclass(frozen=True, slots=True)
class Access:
    """How to be let in; files are read where the job is submitted, and go sealed to the workers."""

    #: Sent to the URL's origin, and to no other.
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    user: str | None = field(default=None, repr=False)  #: ``name:password``
    uses_digest: bool = False  #: Digest authentication instead of Basic
    cookie_file: Path | None = None  #: in Netscape's format, as browsers and curl write it
    certificate_file: Path | None = None  #: PEM: the client's certificate, and its key if that has no file
    key_file: Path | None = None  #: PEM: the client's key
    ca_file: Path | None = None  #: PEM: certificates to trust instead of the system's
    is_insecure: bool = False  #: do not check the origin's certificate
    proxy: str | None = field(default=None, repr=False)  #: None: from the environment of each worker
    trusts_redirects: bool = False  #: credentials go along to another origin
    allows_downgrade: bool = False  #: follow a redirect from https to http


class Requests:
    """Makes the requests for URLs that share an access; the files that it names are read once."""

    def __init__(self, access: Access) -> None:
        """Read and check what goes with the URLs.

        Raises:
            BadOption: something of it makes no sense, or a file cannot be read.
        """
        _check_headers(access.headers)
        self._access = access
        self._common: dict[str, Any] = {
            "headers": dict(access.headers),
            "uses_digest": access.uses_digest,
            "cookies": _read_cookies(access.cookie_file) if access.cookie_file else (),
            "client_certificate": _read_client_certificate(access),
            "ca_certificates": _read_ca(access.ca_file) if access.ca_file else None,
            "verifies": not access.is_insecure,
            "proxy": _check_proxy(access.proxy),
            "trusts_redirects": access.trusts_redirects,
            "allows_downgrade": access.allows_downgrade,
        }

    def to(self, url: str, *, checksums_url: str | None = None) -> SourceRequest:
        """The request that workers send.

        Args:
            url: of the file.
            checksums_url: of a list of checksums; credentials go there only if it is of the same origin.

        Raises:
            BadURL: one of them is none.
        """
        _check_url(url)
        parts = urlsplit(url)
        userinfo, at, host = parts.netloc.rpartition("@")
        user = self._access.user
        if at:
            user = user or ":".join(unquote(item) for item in userinfo.split(":", 1))
        return SourceRequest(
            **self._common,
            url=urlunsplit(parts._replace(netloc=host, fragment="")),
            user=user,
            checksums=None if checksums_url is None else self._to_checksums(checksums_url, url),
        )

    def _to_checksums(self, checksums_url: str, url: str) -> SourceRequest:
        _check_url(checksums_url)
        if origin_of(checksums_url) == origin_of(url):
            return self.to(checksums_url)
        # The ways there and whom to trust, and nothing that was meant for another.
        return Requests(Access(ca_file=self._access.ca_file, proxy=self._access.proxy)).to(checksums_url)


def request_for(url: str, access: Access, *, checksums_url: str | None = None) -> SourceRequest:
    """The request for one URL; see `Requests`.

    Raises:
        BadURL, BadOption: something of it makes no sense, or a file cannot be read.
    """
    # The URL first: that it is none is what a user would want to hear of before all else.
    _check_url(url)
    return Requests(access).to(url, checksums_url=checksums_url)


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise BadURL("That is not a URL: its host or port makes no sense.") from None
    if parts.scheme not in ("http", "https"):
        kind = f"the scheme {parts.scheme!r}" if parts.scheme else "no scheme"
        raise BadURL(f"A URL with {kind} cannot be downloaded; it must begin with http:// or https://.")
    if not host or any(char.isspace() or not char.isprintable() for char in url):
        raise BadURL("That is not a URL: it has no host, or spaces in it.")


def _check_headers(headers: Mapping[str, str]) -> None:
    for name, value in headers.items():
        if not name.isascii() or not name.replace("-", "a").replace("_", "a").isalnum():
            raise BadOption(f"{name[:40]!a} is not the name of a header; give -H 'Name: value'.")
        if not all(char.isprintable() or char == "\t" for char in value):
            raise BadOption(f"The value of the header {name} has characters in it that a header cannot have.")
        if name.lower() in _OWN_HEADERS:
            raise BadOption(
                f"The header {name} is this program's own; with another value parts would not join up."
            )


def _check_proxy(proxy: str | None) -> str | None:
    if proxy is None:
        return None
    parts = urlsplit(proxy)
    if parts.scheme not in _PROXY_SCHEMES or not parts.hostname:
        # Not shown: it may carry a password.
        raise BadOption("That is no proxy: give a URL such as http://host:3128 or socks5h://host:1080.")
    return proxy


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise BadOption(
            f"{path} cannot be read: {getattr(error, 'strerror', None) or 'it is no text'}."
        ) from None


def _read_cookies(path: Path) -> tuple[Cookie, ...]:
    jar = http.cookiejar.MozillaCookieJar()
    _read(path)
    try:
        # Those that have ended are left out below: 0, as curl writes it for "with the session", is no end.
        jar.load(str(path), ignore_discard=True, ignore_expires=True)
    except http.cookiejar.LoadError:
        raise BadOption(f"{path} is not a cookie file in Netscape's format.") from None
    return tuple(
        Cookie(
            name=cookie.name,
            value=cookie.value or "",
            domain=cookie.domain,
            path=cookie.path,
            is_secure=cookie.secure,
        )
        for cookie in jar
        if not (cookie.expires and cookie.is_expired())
    )


def _read_client_certificate(access: Access) -> str | None:
    if access.certificate_file is None:
        if access.key_file is not None:
            raise BadOption("--key needs --cert.")
        return None
    pem = _read(access.certificate_file)
    if access.key_file is not None:
        pem = f"{pem.rstrip()}\n{_read(access.key_file)}"
    try:
        ssl.create_default_context().load_cert_chain(
            access.certificate_file, access.key_file, password=lambda: ""
        )
    except (ssl.SSLError, OSError, ValueError):
        raise BadOption(
            f"{access.certificate_file} is not a certificate with a key in PEM that needs no passphrase."
        ) from None
    return pem


def _read_ca(path: Path) -> str:
    pem = _read(path)
    try:
        ssl.create_default_context(cadata=pem)
    except (ssl.SSLError, ValueError):
        raise BadOption(f"{path} has no certificates in PEM.") from None
    return pem
