"""Access: authentication, cookies, certificates and proxies, all of them carried out by requests."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING

from requests.auth import AuthBase, HTTPBasicAuth, HTTPDigestAuth
from requests.cookies import create_cookie
from requests.utils import get_netrc_auth

from tasks.transfer.http_source.connection import new_session

if TYPE_CHECKING:
    import requests

    from tasks.transfer.http_source.outgoing import Outgoing
    from tasks.transfer.manifest import SourceRequest


def open_session(request: SourceRequest, outgoing: Outgoing) -> requests.Session:
    """A session with the request's cookies, proxy and certificates; for one attempt."""
    session = new_session(outgoing)
    for cookie in request.cookies:
        session.cookies.set_cookie(
            create_cookie(  # type: ignore[no-untyped-call]
                cookie.name,
                cookie.value,
                domain=_as_jar_domain(cookie.domain),
                path=cookie.path,
                secure=cookie.is_secure,
            )
        )
    return session


def _as_jar_domain(domain: str) -> str:
    # http.cookiejar takes a host without a dot for one of the domain "local", and would send it nothing.
    return domain if "." in domain else f"{domain}.local"


def tls_options(request: SourceRequest, *, may_sign: bool) -> dict[str, object]:
    """What requests is told of certificates with each call: `verify`, and `cert` where credentials may go."""
    options: dict[str, object] = {}
    if not request.verifies:
        options["verify"] = False
    elif request.ca_certificates is not None:
        options["verify"] = _as_file(request.ca_certificates)
    if may_sign and request.client_certificate is not None:
        options["cert"] = _as_file(request.client_certificate)
    return options


def proxies_of(request: SourceRequest) -> dict[str, str] | None:
    """The proxy for each scheme; None: requests asks the environment, ``no_proxy`` included."""
    return None if request.proxy is None else {"http": request.proxy, "https": request.proxy}


def auth_of(request: SourceRequest) -> AuthBase | None:
    """What signs a request to the URL's own origin: the user's header, the job's user, or netrc's; None: nothing."""
    if any(name.lower() == "authorization" for name in request.headers):
        return UNSIGNED
    if request.user is not None:
        name, _, password = request.user.partition(":")
    else:
        account = get_netrc_auth(request.url)
        if account is None:
            return None
        name, password = account
    if request.uses_digest:
        return HTTPDigestAuth(name, password)
    # Bytes: requests would encode text as Latin-1, and RFC 7617 recommends UTF-8.
    return HTTPBasicAuth(name.encode(), password.encode())


class _Unchanged(AuthBase):
    """Leaves the request as it is: without an auth, requests takes netrc's, also in place of the user's header."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


#: For a request that netrc has no say in: one with a header of the user's, or to another origin.
UNSIGNED: AuthBase = _Unchanged()


@functools.lru_cache(maxsize=64)
def _as_file(pem: str) -> str:
    """The path of a file with this text, in memory only: a private key must not lie on a worker's disk.

    Cached: the connection pool keeps connections for each path apart.
    """
    fd = os.memfd_create("pem", os.MFD_CLOEXEC)
    os.write(fd, pem.encode())
    return f"/proc/{os.getpid()}/fd/{fd}"
