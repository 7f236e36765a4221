"""Submissions: what a user asks for, checked and sealed, as it goes into the record of a job."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from pydantic import ValidationError

from orchestrator import checksums as checksum_lists
from orchestrator import planner
from orchestrator.access import Access, request_for
from tasks.records import NewJob
from tasks.sealing import seal
from tasks.transfer.errors import BadOption, redact
from tasks.transfer.manifest import JobSpec, LayoutName, Priority

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import SecretStr


class Options(TypedDict, total=False):
    """How a file is to be brought; all have defaults."""

    chunk_size_bytes: int | None  #: None: chosen from the file's size
    connections: int | None  #: the most to the origin, with those of other jobs; None: the workers' setting
    layout: LayoutName | str  #: how parts lie on the volume
    overwrite: bool  #: replace what has the destination's name
    sync: bool  #: have the data on disk before the file is visible
    strict: bool  #: take another ETag for another file, though size and Last-Modified agree
    restarts: bool  #: start over once if the file changes midway, else fail
    verify_offered: bool  #: without digests of the user's, compare with those that the origin offers
    max_size_bytes: int | None  #: refuse a larger file; None: any that there is room for
    max_wait_seconds: float | None  #: the longest ``Retry-After`` to obey; None: the workers' setting
    timeout_seconds: float | None  #: the job fails if its last byte has not come by then
    priority: Priority | str  #: whose turn it is: high, normal or low
    access: Access | None  #: headers, password, cookies, certificates, proxy


@dataclass(frozen=True, slots=True)
class Wanted:
    """One file: what only it has of a batch's options."""

    url: str  #: http or https
    output: str | None = None  #: name relative to the volume; None: the server's, else the URL's
    digests: Mapping[str, str] = field(default_factory=dict)  #: algorithm -> hexadecimal
    checksums: str | Path | None = None  #: a list that has the file's digest: its URL, or a file here


def new_job(wanted: Wanted, key: SecretStr | None, options: Options) -> NewJob:
    """A job that can be recorded.

    Args:
        wanted: which file.
        key: seals the request.
        options: how to bring it.

    Raises:
        UsageError: something of that makes no sense, or credentials were given and there is no key.
    """
    others: dict[str, Any] = dict(options)
    access = others.pop("access", None) or Access()
    others["verifies_offered"] = others.pop("verify_offered", True)
    is_list_remote = wanted.checksums is not None and checksum_lists.is_url(wanted.checksums)
    request = request_for(wanted.url, access, checksums_url=str(wanted.checksums) if is_list_remote else None)
    found: Mapping[str, str] = {}
    if wanted.checksums is not None and not is_list_remote:
        names = checksum_lists.names_of(request.url, wanted.output)
        found = checksum_lists.choose_in(Path(wanted.checksums), names)
    spec = _spec(wanted.output, digests=checksum_lists.given(None, wanted.digests, found), **others)
    return NewJob(
        job_id=secrets.token_hex(6), url=redact(request.url), spec=spec, sealed_request=seal(request, key)
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
