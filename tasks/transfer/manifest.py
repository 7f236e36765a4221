"""The manifest: what a plan decided, stored on the volume; and receipts, the proof of complete parts.

These are the truth of a job. They are read back from a shared volume, so every field is validated.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field

from tasks.transfer.errors import origin_of, redact
from tasks.transfer.ranges import ByteRange, nth
from tasks.transfer.rates import RateText  # noqa: TC001  (pydantic reads it)

if TYPE_CHECKING:
    from collections.abc import Collection

JobId = Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]


class LayoutName(enum.StrEnum):
    """How parts lie on the volume while a job runs."""

    AUTO = "auto"  #: parts where the volume clones, else shared where the validator is strong, else parts
    SHARED = "shared"  #: one sparse file, each worker writes its own range in place
    PARTS = "parts"  #: one file a part, joined in order by the merge


class Priority(enum.StrEnum):
    """Whose turn it is: what is higher goes first."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"

    @property
    def rank(self) -> int:
        """0 for the highest."""
        return list(Priority).index(self)


class _Stored(BaseModel):
    # A newer version's file may have more fields; unknown ones are ignored, missing ones are an error.
    # A time that is no number cannot be put in order in Redis.
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class JobSpec(_Stored):
    """What was asked for, without anything secret."""

    output: str | None = None  #: name relative to the volume; None: the server's or the URL's
    #: Algorithm -> hexadecimal: what the whole file must have, as the user says.
    digests: dict[str, str] = Field(default_factory=dict)
    verifies_offered: bool = True  #: without any of the user's, the whole file must have the origin's digests
    chunk_size_bytes: int | None = Field(default=None, gt=0)  #: None: chosen from the file's size
    connections: int | None = Field(default=None, ge=1)  #: the most to the origin; None: the workers' setting
    layout: LayoutName = LayoutName.AUTO
    overwrite: bool = False
    skip_existing: bool = False  #: a file at the destination that is as it is to be ends the job well
    sync: bool = True  #: data is on disk before the file is visible
    strict: bool = False  #: another ETag is another file, though size and Last-Modified agree
    restarts: bool = True  #: a file that changed midway is started over, once
    max_size_bytes: int | None = Field(default=None, gt=0)
    max_wait_seconds: float | None = Field(default=None, ge=0)  #: None: the workers' setting
    timeout_seconds: float | None = Field(default=None, gt=0)  #: from submit to the last byte; None: any
    limit_rate: RateText = None  #: bytes a second over all hosts, or a timetable of them; None: any
    priority: Priority = Priority.NORMAL


class UnplannedJob(_Stored):
    """A job that has no plan yet."""

    job_id: JobId
    url: str  #: redacted
    spec: JobSpec
    sealed_request: str  #: a `SourceRequest` as `tasks.sealing` stores it
    created_at: float  #: seconds since the epoch
    cluster: str  #: names the Redis that knows of the job


class Cookie(_Stored):
    """A cookie of a cookie file (RFC 6265)."""

    name: str
    value: str
    domain: str
    path: str = "/"
    is_secure: bool = False


class SourceRequest(_Stored):
    """How to ask the origin: the URL and what goes with it. Secret: sealed wherever it rests."""

    url: str
    headers: dict[str, str] = Field(default_factory=dict)
    user: str | None = None  #: ``name:password``
    uses_digest: bool = False  #: Digest authentication (RFC 7616) instead of Basic
    cookies: tuple[Cookie, ...] = ()
    client_certificate: str | None = None  #: PEM: the certificate and its key
    ca_certificates: str | None = None  #: PEM: trusted instead of the system's
    verifies: bool = True  #: whether the origin's certificate is checked
    proxy: str | None = None  #: http, https or socks5 URL; None: from the worker's environment
    trusts_redirects: bool = False  #: credentials go along to another origin
    allows_downgrade: bool = False  #: a redirect from https to http is followed
    checksums: SourceRequest | None = None  #: how to ask for the list of checksums that has the file's

    @property
    def has_credentials(self) -> bool:
        """Whether it carries something secret besides the URL."""
        return bool(
            self.headers
            or self.user
            or self.cookies
            or self.client_certificate
            or (self.checksums and self.checksums.has_credentials)
            or any("@" in urlsplit(url).netloc for url in (self.url, self.proxy) if url)
        )

    def __repr__(self) -> str:
        # In a log or a traceback it must not show what is sealed wherever it rests.
        return f"SourceRequest({redact(self.url)!r})"

    __str__ = __repr__


class Validator(_Stored):
    """What identifies one version of the file (RFC 9110, section 8.8)."""

    etag: str | None = None  #: a strong entity tag with its quotes
    weak_etag: str | None = None  #: another one proves a change, an equal one proves nothing
    last_modified: str | None = None  #: the header as sent; compared as an opaque string
    is_fresh: bool = False  #: so new when it was sent that another version may have the same date

    @property
    def is_strong(self) -> bool:
        """Whether equal validators prove equal bytes."""
        return self.etag is not None

    def __str__(self) -> str:
        return f"ETag {self.etag}" if self.etag else f"Last-Modified {self.last_modified or 'none'}"


class Chunk(_Stored):
    """One range given to one Celery task."""

    number: int = Field(ge=0)
    start: int = Field(ge=0)
    length_bytes: int | None  #: None: the origin does not say how long the file is

    @property
    def range(self) -> ByteRange | None:
        """The chunk's range, or None for a file of unknown length."""
        return None if self.length_bytes is None else ByteRange(self.start, self.start + self.length_bytes)


class Manifest(_Stored):
    """The plan of one job."""

    job_id: JobId
    generation: int = Field(ge=1)  #: grows with every sending; older messages are fenced off
    #: Names the folder of the plan's parts; no two plans share it.
    plan_name: str = Field(pattern=r"^[0-9a-f]{12}$")
    destination: str  #: relative to the volume
    source_name: str  #: the redacted URL, for messages
    size_bytes: int | None = Field(ge=0)
    validator: Validator
    honours_ranges: bool
    content_coding: str | None = None  #: what a single stream has to be decoded from
    #: Algorithm -> hexadecimal; the origin's word.
    offered_digests: dict[str, str] = Field(default_factory=dict)
    restarts_count: int = Field(default=0, ge=0)  #: plans of this job that a changed file made void
    has_query: bool = True  #: the submitted URL has a query, which `source_name` does not show
    #: Expected once, and not those of the parts.
    refuted_digests: dict[str, str] = Field(default_factory=dict)
    chunk_size_bytes: int = Field(gt=0)
    layout: LayoutName
    spec: JobSpec
    sealed_request: str  #: a `SourceRequest` as `tasks.sealing` stores it
    created_at: float  #: seconds since the epoch
    cluster: str = ""  #: names the Redis that knows of the job

    def may_be_of(self, names: Collection[str]) -> bool:
        """Whether it may be a job of the cluster of these names; who shares the volume may have one of the same id."""
        return not self.cluster or self.cluster in names

    @property
    def origin(self) -> str:
        """Scheme, host and port of the submitted URL."""
        return origin_of(self.source_name)

    @property
    def can_be_gone_on_with(self) -> bool:
        """Whether its parts are of use later: the origin sends the rest, and tells whether it is the same file."""
        names_a_version = self.validator.etag or self.validator.last_modified
        return self.honours_ranges and self.size_bytes is not None and bool(names_a_version)

    @property
    def chunks_count(self) -> int:
        """How many chunks there are: none for an empty file, one where the origin cannot be split."""
        if self.size_bytes is None:
            return 1
        if not self.honours_ranges:
            return min(self.size_bytes, 1)
        return -(-self.size_bytes // self.chunk_size_bytes)

    def chunk(self, number: int) -> Chunk:
        """One chunk of the plan.

        Raises:
            ValueError: the plan has no such chunk.
        """
        if not 0 <= number < self.chunks_count:
            raise ValueError(f"no chunk {number} in a plan of {self.chunks_count}")
        if self.size_bytes is None or not self.honours_ranges:
            return Chunk(number=0, start=0, length_bytes=self.size_bytes)
        part = nth(number, self.size_bytes, self.chunk_size_bytes)
        return Chunk(number=number, start=part.start, length_bytes=part.length_bytes)

    def chunks(self) -> list[Chunk]:
        """The chunks in order."""
        return [self.chunk(number) for number in range(self.chunks_count)]


@dataclass(frozen=True, slots=True)
class Span:
    """What one attempt brings of a chunk: all of it, or what an idle worker took over of it."""

    number: int  #: the chunk's
    start: int = 0  #: where it begins, counted from the chunk's start
    stop: int | None = None  #: where it ends, likewise; None: with the chunk

    def __str__(self) -> str:
        return f"{self.number}+{self.start}" if self.start else f"{self.number}"


class PartState(_Stored):
    """What is on the volume of one span of a part: trusted as far as this says, and no further."""

    number: int = Field(ge=0)
    start: int = Field(default=0, ge=0)  #: where the span begins, counted from the part's start
    length_bytes: int = Field(ge=0)  #: how much of the span is there, from its start
    crc32c: int = Field(ge=0, lt=2**32)  #: of these bytes
    file_name: str = Field(pattern=r"^[0-9a-z.-]{1,100}$")  #: the file that holds them, in the plan's folder
    brought_bytes: dict[str, int]  #: by worker host: who brought how much
    is_synced: bool = False  #: the bytes were on disk when this was written


class Checkpoint(PartState):
    """What an unfinished span has."""

    is_left: bool = False  #: its writer has ended; False: it may go on writing to the file that this names


class Receipt(PartState):
    """The proof of a complete span: as a rule of the whole part."""

    boot: str | None = None  #: which running host wrote it; None: not known


class Followed(_Stored):
    """What was hashed of the parts, in order, while others were still being fetched."""

    receipts_id: str  #: identifies the receipts that the digests cover
    #: What was read, perhaps more than they cover; grows while somebody is at it.
    length_bytes: int = Field(ge=0)
    digests: dict[str, str]  #: algorithm -> hexadecimal


@dataclass(frozen=True, slots=True)
class Proven:
    """What the receipts of a chunk prove, from its start on without a gap."""

    receipts: tuple[Receipt, ...]  #: in order
    is_whole: bool  #: nothing of the chunk is missing

    @property
    def length_bytes(self) -> int:
        """Bytes up to the first gap."""
        return sum(receipt.length_bytes for receipt in self.receipts)
