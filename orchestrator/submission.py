"""Submissions: what a user asks for, checked and sealed, as it goes into the record of a job."""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import json
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from pydantic import ValidationError

from orchestrator import checksums as checksum_lists
from orchestrator import planner
from orchestrator.access import Access, Requests
from tasks.records import NewJob
from tasks.sealing import seal
from tasks.transfer.errors import BadOption, redact
from tasks.transfer.manifest import JobSpec, LayoutName, Priority

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import SecretStr

    from tasks.transfer.manifest import SourceRequest

_ID_BYTES = 6
#: Tells the files of two jobs apart whose ids are the same by chance.
_ENTRY_DIGITS = 24


class Options(TypedDict, total=False):
    """How a file is to be brought; all have defaults."""

    chunk_size_bytes: int | None  #: None: chosen from the file's size
    connections: int | None  #: the most to the origin, with those of other jobs; None: the workers' setting
    layout: LayoutName | str  #: how parts lie on the volume
    overwrite: bool  #: replace what has the destination's name
    skip_existing: bool  #: what has the destination's name, the origin's size and the digests is the file
    sync: bool  #: have the data on disk before the file is visible
    strict: bool  #: take another ETag for another file, though size and Last-Modified agree
    restarts: bool  #: start over once if the file changes midway, else fail
    verify_offered: bool  #: without digests of the user's, compare with those that the origin offers
    max_size_bytes: int | None  #: refuse a larger file; None: any that there is room for
    max_wait_seconds: float | None  #: the longest ``Retry-After`` to obey; None: the workers' setting
    timeout_seconds: float | None  #: the job fails if its last byte has not come by then
    limit_rate: str | None  #: bytes a second over all hosts, such as 50M, or a timetable; None: no limit
    priority: Priority | str  #: whose turn it is: high, normal or low
    access: Access | None  #: headers, password, cookies, certificates, proxy


@dataclass(frozen=True, slots=True)
class Wanted:
    """One file: what only it has of a batch's options."""

    url: str  #: http or https
    output: str | None = None  #: name relative to the volume; None: the server's, else the URL's
    digests: Mapping[str, str] = field(default_factory=dict)  #: algorithm -> hexadecimal
    checksums: str | Path | None = None  #: a list that has the file's digest: its URL, or a file here
    line: int | None = None  #: of the list of URLs that it is from


class Submission:
    """Makes jobs that share their options; files that these name are read once."""

    def __init__(self, key: SecretStr | None, options: Options) -> None:
        """Take the key that seals requests, and how to bring the files.

        Raises:
            UsageError: something of that makes no sense, or a file cannot be read.
        """
        others: dict[str, Any] = dict(options)
        self._requests = Requests(others.pop("access", None) or Access())
        others["verifies_offered"] = others.pop("verify_offered", True)
        self._key = key
        self._options = others
        self._lists: dict[str, checksum_lists.ChecksumList] = {}

    def job(self, wanted: Wanted) -> NewJob:
        """A job under an id of its own.

        Raises:
            UsageError: something of it makes no sense, or credentials were given and there is no key.
        """
        request, spec = self._make(wanted)
        return self._sealed(request, spec, secrets.token_hex(_ID_BYTES))

    def named_job(self, wanted: Wanted) -> NewJob:
        """A job under the id that the same file with the same options has each time that it is asked for.

        The id says nothing of a URL or a password to those who have not the key.

        Raises:
            UsageError: as for `job`.
        """
        request, spec = self._make(wanted)
        # Defaults are left out: a version that knows more options must not know these jobs by other names. Whether a
        # file that is there already will do, and how quickly it may come, says nothing of which file it is.
        shown = spec.model_copy(update={"skip_existing": False, "limit_rate": None})
        asked = [each.model_dump_json(exclude_defaults=True) for each in (request, shown)]
        key = self._key.get_secret_value() if self._key else ""
        digest = hmac.new(key.encode(), json.dumps(asked).encode(), hashlib.sha256).hexdigest()
        return dataclasses.replace(
            self._sealed(request, spec, digest[: 2 * _ID_BYTES]),
            entry=digest[2 * _ID_BYTES :][:_ENTRY_DIGITS],
        )

    def check(self, wanted: Wanted) -> None:
        """Raise what `job` would raise."""
        request, _ = self._make(wanted)
        if self._key is None:
            seal(request, None)

    def _make(self, wanted: Wanted) -> tuple[SourceRequest, JobSpec]:
        listed = None if wanted.checksums is None else str(wanted.checksums)
        is_remote = listed is not None and checksum_lists.is_url(listed)
        request = self._requests.to(wanted.url, checksums_url=listed if is_remote else None)
        found: Mapping[str, str] = {}
        if listed is not None and not is_remote:
            if listed not in self._lists:
                self._lists[listed] = checksum_lists.read_list(Path(listed))
            found = self._lists[listed].choose(checksum_lists.names_of(request.url, wanted.output))
        digests = checksum_lists.given(None, wanted.digests, found)
        return request, _spec(wanted.output, digests=digests, **self._options)

    def _sealed(self, request: SourceRequest, spec: JobSpec, job_id: str) -> NewJob:
        return NewJob(
            job_id=job_id, url=redact(request.url), spec=spec, sealed_request=seal(request, self._key)
        )


def _spec(output: str | None, *, layout: LayoutName | str = LayoutName.AUTO, **others: Any) -> JobSpec:
    if output is not None:
        planner.check_output(output)
    try:
        layout = LayoutName(layout)
    except ValueError as error:
        raise BadOption(f"That is {error}.") from None
    try:
        return JobSpec(output=output, layout=layout, **others)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        raise BadOption(f"{problem['loc'][0]} makes no sense: {problem['msg'].lower()}.") from None
