"""Sending requests for one file: redirects, credentials, and what goes wrong before an answer comes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

import requests

from tasks.transfer.errors import OriginBusy, RedirectRefused, origin_of, redact
from tasks.transfer.http_source import access, answers
from tasks.transfer.http_source.connection import watched_by
from tasks.transfer.http_source.outgoing import Outgoing, choose

if TYPE_CHECKING:
    from tasks.transfer.attempt import Attempt
    from tasks.transfer.manifest import SourceRequest
    from tasks.transfer.ranges import ByteRange

_MOST_REDIRECTS = 10
#: What a redirect's target answers when its signature or its time is over (401, 404: some object stores).
_EXPIRED_STATUSES = frozenset({400, 401, 403, 404, 410})


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Deadlines of one request, and where it may leave this host from."""

    connect_timeout_seconds: float = 10.0
    read_timeout_seconds: float = 30.0
    ways_out: tuple[Outgoing, ...] = (Outgoing(),)  #: used in turn


class Sender:
    """Sends what a `SourceRequest` says, from its URL on."""

    def __init__(self, request: SourceRequest, limits: HttpLimits) -> None:
        self._request = request
        self._limits = limits
        self._session = access.open_session(request, choose(limits.ways_out, self))
        self._auth = access.auth_of(request)
        self._name = redact(request.url)

    def send(
        self,
        wanted: ByteRange | None,
        attempt: Attempt,
        *,
        if_range: str | None = None,
        is_planned: bool = False,
    ) -> requests.Response:
        """Send the request and follow redirects; a response with a status of success or 416 comes back.

        Each request starts from the submitted URL: a redirect's target may be a link that expires. One that did so
        between its making and its use is asked for once more.
        """
        response, url = self._follow(wanted, attempt, if_range)
        if response.status_code in _EXPIRED_STATUSES and url != self._request.url:
            response.close()
            response, url = self._follow(wanted, attempt, if_range)
            if is_planned and response.status_code in _EXPIRED_STATUSES:
                # Such a target gave ranges of this file before: later it may again.
                response.close()
                raise OriginBusy(redact(url), response.status_code)
        answers.check_status(response, redact(url))
        return response

    def _follow(
        self, wanted: ByteRange | None, attempt: Attempt, if_range: str | None
    ) -> tuple[requests.Response, str]:
        """The first answer that is no redirect, from the submitted URL on, and the URL that gave it."""
        url = self._request.url
        for _ in range(_MOST_REDIRECTS + 1):
            response = self._send_once(url, wanted, attempt, if_range)
            if not response.is_redirect:
                return response, url
            # Not read: the body of a redirect may be endless.
            response.close()
            url = self._target_of(response, url)
        raise RedirectRefused(self._name, f"more than {_MOST_REDIRECTS} redirects")

    def _send_once(
        self, url: str, wanted: ByteRange | None, attempt: Attempt, if_range: str | None
    ) -> requests.Response:
        # requests offers gzip by default, and a range of a compressed response counts compressed bytes:
        # the parts would not join up. Ask for the plain file.
        headers: dict[str, str | bytes | None] = {"Accept-Encoding": "identity"}
        is_own = origin_of(url) == origin_of(self._request.url)
        # Credentials stay with the origin they were given for; a redirect's target gets none.
        may_sign = is_own or self._request.trusts_redirects
        if may_sign:
            # As bytes: http.client would send text as Latin-1, or refuse it.
            headers.update({name: value.encode() for name, value in self._request.headers.items()})
        if wanted is not None:
            headers["Range"] = wanted.to_header()
        if if_range is not None:
            headers["If-Range"] = if_range
        auth = self._auth if may_sign else None
        if auth is None and not is_own:
            auth = access.UNSIGNED

        def get() -> requests.Response:
            return self._session.get(
                url,
                headers=headers,
                auth=auth,
                stream=True,
                allow_redirects=False,
                timeout=(self._limits.connect_timeout_seconds, self._limits.read_timeout_seconds),
                proxies=access.proxies_of(self._request),
                **access.tls_options(self._request, may_sign=may_sign),  # type: ignore[arg-type]
            )

        with watched_by(attempt):
            try:
                try:
                    return get()
                except requests.ConnectionError as error:
                    if not answers.broke_before_answer(error):
                        raise
                    attempt.check()
                    return get()
            except (requests.RequestException, OSError, ValueError, AttributeError) as error:
                attempt.check()
                # From None: the text of requests' own errors has the URL with its query, and a traceback in an
                # event or a log would show it.
                raise answers.as_transfer_error(error, redact(url)) from None

    def _target_of(self, response: requests.Response, url: str) -> str:
        """Where a redirect leads; `RedirectRefused` if that is nowhere one may go."""
        try:
            target = urljoin(url, self._session.get_redirect_target(response) or "")
            scheme, _ = urlsplit(target).scheme, urlsplit(target).port
        except (ValueError, UnicodeError):
            raise RedirectRefused(self._name, "its Location makes no sense") from None
        if scheme not in ("http", "https"):
            raise RedirectRefused(self._name, f"to the scheme {scheme!r}")
        if scheme == "http" and urlsplit(url).scheme == "https" and not self._request.allows_downgrade:
            raise RedirectRefused(self._name, "from https down to http; --allow-downgrade would follow it")
        return target
