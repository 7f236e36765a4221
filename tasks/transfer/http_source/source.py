"""One file at one URL: the probe, and ranges of the version that the probe saw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

import requests

from tasks.transfer.errors import (
    BadResponse,
    RangesRefused,
    RedirectRefused,
    SourceChanged,
    redact,
)
from tasks.transfer.http_source import answers
from tasks.transfer.http_source.body import Body
from tasks.transfer.http_source.connection import new_session, watched_by
from tasks.transfer.ranges import ByteRange, parse_content_range

if TYPE_CHECKING:
    from tasks.transfer.attempt import Attempt
    from tasks.transfer.manifest import SourceRequest, Validator

_MOST_REDIRECTS = 10


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Deadlines of one request."""

    connect_timeout_seconds: float = 10.0
    read_timeout_seconds: float = 30.0


@dataclass(frozen=True, slots=True)
class Identity:
    """The version of the file that a plan was made for; every response is held against it."""

    size_bytes: int | None
    validator: Validator


@dataclass(frozen=True, slots=True)
class Probe:
    """What the first request learned; its body is the file's beginning and must be used or closed."""

    identity: Identity
    honours_ranges: bool
    offered_name: str | None  #: Content-Disposition's file name, as sent: not to be trusted
    body: Body


class Source:
    """The file that a `SourceRequest` names."""

    def __init__(self, request: SourceRequest, limits: HttpLimits) -> None:
        self._request = request
        self._limits = limits
        self.name = redact(request.url)  #: what may be shown of it

    def probe(self, first_bytes: int, attempt: Attempt) -> Probe:
        """Ask for the first bytes with a ranged GET, and learn from the answer.

        HEAD is not used: servers forbid it, answer it wrongly, or take as long for it as for a GET.

        Args:
            first_bytes: how much to ask for; a server without ranges sends the whole file.
            attempt: who may stop the request.

        Raises:
            TransientError: try again. OriginError: do not.
        """
        wanted = ByteRange(0, first_bytes)
        response = self._send(wanted, attempt)
        if response.status_code == requests.codes.partial:
            carried, size_bytes = self._carried(response)
            if carried.start != 0 or carried.stop > wanted.stop:
                raise self._untrusted(response, f"asked for {wanted.to_header()}, it says it sends {carried}")
            if answers.content_length(response, self.name) not in (None, carried.length_bytes):
                raise self._untrusted(response, f"{carried} in a body of another length")
            if size_bytes is not None:
                identity = Identity(size_bytes, answers.validator_of(response))
                body = Body(response, self.name, attempt, carries=carried, length_bytes=carried.length_bytes)
                return Probe(identity, True, answers.offered_name(response), body)  # noqa: FBT003
        if response.status_code != requests.codes.ok:
            # 416: an empty file satisfies no range. A 206 of unknown size cannot be split either.
            response.close()
            response = self._send(None, attempt)
        if response.status_code != requests.codes.ok:
            raise self._untrusted(response, f"status {response.status_code} to a plain GET")
        size_bytes = answers.content_length(response, self.name)
        identity = Identity(size_bytes, answers.validator_of(response))
        body = Body(response, self.name, attempt, carries=None, length_bytes=size_bytes)
        return Probe(identity, False, answers.offered_name(response), body)  # noqa: FBT003

    def open(self, wanted: ByteRange, identity: Identity, attempt: Attempt) -> Body:
        """Open one range of the version that was planned.

        Returns:
            A body that starts at `wanted.start` and may end before `wanted.stop`: a server may send less
            than was asked for (RFC 9110, section 15.3.7), and the rest has to be asked for again.

        Raises:
            SourceChanged, RangesRefused: the plan is void.
            TransientError, OriginError: as for `probe`.
        """
        response = self._send(wanted, attempt)
        if response.status_code != requests.codes.partial:
            status = response.status_code
            try:
                self._check_version(response, identity)
            finally:
                response.close()
            raise RangesRefused(self.name, status)
        carried, size_bytes = self._carried(response)
        if size_bytes is not None and size_bytes != identity.size_bytes:
            response.close()
            raise SourceChanged(self.name, f"{identity.size_bytes} bytes", f"{size_bytes} bytes")
        self._check_version(response, identity)
        if carried.start != wanted.start or carried.stop > wanted.stop:
            raise self._untrusted(response, f"asked for {wanted.to_header()}, it says it sends {carried}")
        length_bytes = answers.content_length(response, self.name)
        if length_bytes not in (None, carried.length_bytes):
            raise self._untrusted(response, f"{carried} in a body of {length_bytes} bytes")
        return Body(response, self.name, attempt, carries=carried, length_bytes=carried.length_bytes)

    def open_whole(self, identity: Identity, attempt: Attempt) -> Body:
        """Open the whole file, where the origin does not honour ranges; errors as for `open`."""
        response = self._send(None, attempt)
        if response.status_code != requests.codes.ok:
            raise self._untrusted(response, f"status {response.status_code} to a plain GET")
        self._check_version(response, identity)
        size_bytes = answers.content_length(response, self.name)
        if size_bytes != identity.size_bytes:
            response.close()
            raise SourceChanged(self.name, f"{identity.size_bytes} bytes", f"{size_bytes} bytes")
        return Body(response, self.name, attempt, carries=None, length_bytes=size_bytes)

    def _carried(self, response: requests.Response) -> tuple[ByteRange, int | None]:
        try:
            return parse_content_range(response.headers.get("Content-Range", ""))
        except ValueError as error:
            raise self._untrusted(response, f"a 206 with Content-Range {error}") from None

    def _check_version(self, response: requests.Response, identity: Identity) -> None:
        planned, seen = identity.validator, answers.validator_of(response)
        if planned.etag is not None and seen.etag != planned.etag:
            changed = True
        elif planned.etag is None and planned.last_modified is not None:
            changed = seen.last_modified != planned.last_modified
        else:
            changed = planned.weak_etag is not None and seen.weak_etag not in (None, planned.weak_etag)
        if changed:
            response.close()
            raise SourceChanged(self.name, str(planned), str(seen))

    def _untrusted(self, response: requests.Response, reason: str) -> BadResponse:
        response.close()
        return BadResponse(self.name, reason)

    def _send(self, wanted: ByteRange | None, attempt: Attempt) -> requests.Response:
        """Send the request and follow redirects; a response with a status of success or 416 comes back."""
        session = new_session()
        url = self._request.url
        for _ in range(_MOST_REDIRECTS + 1):
            response = self._send_once(session, url, wanted, attempt)
            if not response.is_redirect:
                answers.check_status(response, redact(url))
                return response
            # Not read: the body of a redirect may be endless.
            response.close()
            url = self._target_of(response, session, url)
        raise RedirectRefused(self.name, f"more than {_MOST_REDIRECTS} redirects")

    def _send_once(
        self, session: requests.Session, url: str, wanted: ByteRange | None, attempt: Attempt
    ) -> requests.Response:
        # requests offers gzip by default, and a range of a compressed response counts compressed bytes:
        # the parts would not join up. Ask for the plain file.
        headers: dict[str, str | bytes | None] = {"Accept-Encoding": "identity"}
        if wanted is not None:
            headers["Range"] = wanted.to_header()
        # Credentials stay with the origin they were given for; a redirect's target gets none, of netrc neither.
        auth: object = _leave_unsigned
        if _origin_of(url) == _origin_of(self._request.url):
            # As bytes: http.client would send text as Latin-1, or refuse it.
            headers.update({name: value.encode() for name, value in self._request.headers.items()})
            if any(name.lower() == "authorization" for name in self._request.headers):
                auth = _leave_unsigned
            elif self._request.user is not None:
                name, _, password = self._request.user.partition(":")
                auth = (name.encode(), password.encode())
            else:
                auth = None  # netrc, if that has an entry

        def get() -> requests.Response:
            return session.get(
                url,
                headers=headers,
                auth=auth,  # type: ignore[arg-type]  # the stubs know no tuple of bytes, requests does
                stream=True,
                allow_redirects=False,
                timeout=(self._limits.connect_timeout_seconds, self._limits.read_timeout_seconds),
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

    def _target_of(self, response: requests.Response, session: requests.Session, url: str) -> str:
        """Where a redirect leads; `RedirectRefused` if that is nowhere one may go."""
        try:
            target = urljoin(url, session.get_redirect_target(response) or "")
            scheme, _ = urlsplit(target).scheme, urlsplit(target).port
        except (ValueError, UnicodeError):
            raise RedirectRefused(self.name, "its Location makes no sense") from None
        if scheme not in ("http", "https"):
            raise RedirectRefused(self.name, f"to the scheme {scheme!r}")
        if scheme == "http" and urlsplit(url).scheme == "https":
            raise RedirectRefused(self.name, "from https down to http")
        return target


def _origin_of(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _leave_unsigned(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """An auth that does nothing: without one, requests takes netrc's, also in place of the user's header."""
    return request
