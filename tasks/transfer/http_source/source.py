"""One file at one URL: the probe, and ranges of the version that the probe saw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import requests

from tasks.transfer.errors import BadResponse, RangesRefused, SourceChanged, origin_of, redact
from tasks.transfer.http_source import answers
from tasks.transfer.http_source.body import Body
from tasks.transfer.http_source.digest_fields import offered_digests
from tasks.transfer.http_source.identity import Identity
from tasks.transfer.http_source.sender import HttpLimits, Sender
from tasks.transfer.ranges import ByteRange, parse_content_range, parse_unsatisfied_range

if TYPE_CHECKING:
    from tasks.transfer.attempt import Attempt
    from tasks.transfer.manifest import SourceRequest

#: Origins that were seen to answer 200 to an If-Range that holds, though they honour the plain range. Some content
#: networks do. Kept for as long as the process: asking again costs one request.
_ignore_if_range: set[str] = set()


@dataclass(frozen=True, slots=True)
class Probe:
    """What the first request learned; its body is the file's beginning and must be used or closed."""

    identity: Identity
    honours_ranges: bool
    content_coding: str | None  #: what the body has to be decoded from
    offered_name: str | None  #: Content-Disposition's file name, as sent: not to be trusted
    offered_digests: dict[str, str]  #: of the whole file: algorithm -> hexadecimal
    body: Body


class Source:
    """The file that a `SourceRequest` names."""

    def __init__(self, request: SourceRequest, limits: HttpLimits) -> None:
        self._sender = Sender(request, limits)
        self._origin = origin_of(request.url)
        self.name = redact(request.url)  #: what may be shown of it
        self.has_query = bool(urlsplit(request.url).query)

    def probe(self, first_bytes: int, attempt: Attempt, *, as_stream: bool = False) -> Probe:
        """Ask for the first bytes with a ranged GET, and learn from the answer.

        HEAD is not used: servers forbid it, answer it wrongly, or take as long for it as for a GET. An answer to the
        range that cannot be made sense of is left for a plain GET, which nearly all servers get right.

        Args:
            first_bytes: how much to ask for; a server without ranges sends the whole file.
            attempt: who may stop the request.
            as_stream: ask for the whole file at once: its origin is known not to honour ranges reliably.

        Raises:
            TransientError: try again. OriginError: do not.
        """
        if not as_stream:
            response = self._sender.send(ByteRange(0, first_bytes), attempt)
            probe = self._probe_of_range(response, first_bytes, attempt)
            if probe is not None:
                return probe
            if response.status_code != requests.codes.ok:
                response.close()
                response = self._sender.send(None, attempt)
        else:
            response = self._sender.send(None, attempt)
        if response.status_code != requests.codes.ok:
            raise self._untrusted(response, f"status {response.status_code} to a plain GET")
        size_bytes = answers.content_length(response, self.name)
        coding = answers.coding_to_undo(response, self.name)
        if coding is not None:
            size_bytes = None  # the length that is stated is that of the encoded body
        identity = Identity(size_bytes, answers.validator_of(response))
        body = Body(response, self.name, attempt, length_bytes=size_bytes, decodes=coding is not None)
        return Probe(
            identity,
            honours_ranges=False,
            content_coding=coding,
            offered_name=answers.offered_name(response),
            offered_digests={} if coding else offered_digests(response.headers, is_whole=True),
            body=body,
        )

    def _probe_of_range(
        self, response: requests.Response, first_bytes: int, attempt: Attempt
    ) -> Probe | None:
        """What a 206 to the probe tells; None if it is none, or makes no sense."""
        if response.status_code != requests.codes.partial or answers.coding_to_undo(response, self.name):
            return None
        try:
            carried, size_bytes = parse_content_range(response.headers.get("Content-Range", ""))
            length_bytes = answers.content_length(response, self.name)
        except (ValueError, BadResponse):
            return None
        if carried.start != 0 or size_bytes is None or length_bytes not in (None, carried.length_bytes):
            return None
        wanted_bytes = min(carried.length_bytes, first_bytes)
        identity = Identity(size_bytes, answers.validator_of(response))
        body = Body(
            response,
            self.name,
            attempt,
            length_bytes=wanted_bytes,
            is_cut=wanted_bytes < carried.length_bytes,
        )
        return Probe(
            identity,
            honours_ranges=True,
            content_coding=None,
            offered_name=answers.offered_name(response),
            offered_digests=offered_digests(response.headers, is_whole=carried.length_bytes == size_bytes),
            body=body,
        )

    def open(self, wanted: ByteRange, identity: Identity, attempt: Attempt) -> Body:
        """Open one range of the version that was planned.

        Returns:
            A body that starts at `wanted.start` and may end before `wanted.stop`: a server may send less
            than was asked for (RFC 9110, section 15.3.7), and the rest has to be asked for again.

        Raises:
            SourceChanged, RangesRefused: the plan is void.
            TransientError, OriginError: as for `probe`.
        """
        etag = None if self._origin in _ignore_if_range else identity.validator.etag
        response = self._sender.send(wanted, attempt, if_range=etag, is_planned=True)
        if (
            response.status_code == requests.codes.ok
            and etag is not None
            and self._is_planned(response, identity)
        ):
            # Not a change: it does not honour If-Range, or its edges have tags of their own.
            response.close()
            _ignore_if_range.add(self._origin)
            response = self._sender.send(wanted, attempt, is_planned=True)
        if response.status_code == requests.codes.requested_range_not_satisfiable:
            self._refuse_unsatisfied(response, identity)
        if response.status_code != requests.codes.partial:
            if not self._is_planned(response, identity):
                raise self._changed(response, identity)
            response.close()
            raise RangesRefused(self.name, response.status_code)
        return self._body_of_range(response, wanted, identity, attempt)

    def open_whole(self, identity: Identity, attempt: Attempt, *, decodes: bool) -> Body:
        """Open the whole file, where the origin does not honour ranges; errors as for `open`."""
        response = self._sender.send(None, attempt, is_planned=True)
        if response.status_code != requests.codes.ok:
            raise self._untrusted(response, f"status {response.status_code} to a plain GET")
        size_bytes = None if decodes else answers.content_length(response, self.name)
        if (answers.coding_to_undo(response, self.name) is not None) is not decodes:
            raise self._untrusted(response, "it is encoded now and then")
        if not identity.is_same(answers.validator_of(response), size_bytes):
            raise self._changed(response, identity)
        return Body(response, self.name, attempt, length_bytes=size_bytes, decodes=decodes)

    def read_text(self, most_bytes: int, attempt: Attempt) -> str:
        """The whole of a small file as text; errors as for `probe`, and `BadResponse` if it is larger."""
        response = self._sender.send(None, attempt)
        if response.status_code != requests.codes.ok:
            raise self._untrusted(response, f"status {response.status_code} to a plain GET")
        coding = answers.coding_to_undo(response, self.name)
        size_bytes = None if coding else answers.content_length(response, self.name)
        data = bytearray()
        with Body(response, self.name, attempt, length_bytes=size_bytes, decodes=coding is not None) as body:
            for block in body.blocks():
                data += block
                if len(data) > most_bytes:
                    raise BadResponse(
                        self.name, f"more than the {most_bytes} bytes that such a file may have"
                    )
        return data.decode(errors="replace")

    def _body_of_range(
        self, response: requests.Response, wanted: ByteRange, identity: Identity, attempt: Attempt
    ) -> Body:
        try:
            carried, size_bytes = parse_content_range(response.headers.get("Content-Range", ""))
        except ValueError as error:
            raise self._untrusted(response, f"a 206 with Content-Range {error}") from None
        if not identity.is_same(answers.validator_of(response), size_bytes):
            raise self._changed(response, identity)
        length_bytes = answers.content_length(response, self.name)
        if carried.start != wanted.start:
            raise self._untrusted(response, f"asked for {wanted.to_header()}, it says it sends {carried}")
        if length_bytes not in (None, carried.length_bytes):
            raise self._untrusted(response, f"{carried} in a body of {length_bytes} bytes")
        if answers.coding_to_undo(response, self.name) is not None:
            raise self._untrusted(response, "a range of an encoded body, though the plain file was asked for")
        wanted_bytes = min(carried.length_bytes, wanted.length_bytes)
        return Body(
            response,
            self.name,
            attempt,
            length_bytes=wanted_bytes,
            is_cut=wanted_bytes < carried.length_bytes,
        )

    def _refuse_unsatisfied(self, response: requests.Response, identity: Identity) -> None:
        """Raise what a 416 to a planned range means."""
        size_bytes = parse_unsatisfied_range(response.headers.get("Content-Range", ""))
        response.close()
        if size_bytes is not None and size_bytes != identity.size_bytes:
            raise SourceChanged(self.name, str(identity), f"{size_bytes} bytes")
        raise RangesRefused(self.name, requests.codes.requested_range_not_satisfiable)

    def _is_planned(self, response: requests.Response, identity: Identity) -> bool:
        size_bytes = None
        if answers.coding_to_undo(response, self.name) is None:
            size_bytes = answers.content_length(response, self.name)
        return identity.is_same(answers.validator_of(response), size_bytes)

    def _changed(self, response: requests.Response, identity: Identity) -> SourceChanged:
        response.close()
        seen = f"{answers.validator_of(response)}, {response.headers.get('Content-Range', 'all of it')[:80]}"
        return SourceChanged(self.name, str(identity), seen)

    def _untrusted(self, response: requests.Response, reason: str) -> BadResponse:
        response.close()
        return BadResponse(self.name, reason)
