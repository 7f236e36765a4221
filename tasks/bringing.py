"""Bringing spans of a job's chunks: one after the other, under one lease on a connection."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from typing import TYPE_CHECKING

from tasks import metrics
from tasks.connections import NoLease
from tasks.jobs import FETCHING_STATES, JobState
from tasks.rates import present_rate
from tasks.records import Next, RedisError, Search
from tasks.transfer.attempt import AttemptStopped, StopReason
from tasks.transfer.errors import (
    ManifestStale,
    RangesRefused,
    TransferError,
    TransientError,
    VolumeError,
    WorkersDied,
)
from tasks.transfer.fetch_chunk import fetch_chunk
from tasks.transfer.manifest import Span

if TYPE_CHECKING:
    from collections.abc import Callable

    from tasks.host import Host
    from tasks.records import Lease, Progress
    from tasks.transfer.attempt import Attempt
    from tasks.transfer.manifest import Manifest, Proven

logger = logging.getLogger(__name__)

#: How long a plan gathers the beginning of the first chunk, on the connection and in the time of a plan's slot.
BEGINNING_SECONDS = 1.0
#: How long the first chunk's task waits for that in its slot. Sent back, it would come behind all other chunks, and
#: what follows the parts in order would wait for it.
_BEGINNING_PATIENCE_SECONDS = BEGINNING_SECONDS + 0.75
#: An attempt that brought nothing in so long says that its host may not reach the origin, if others do.
_NOTHING_SECONDS = 2.0


class Bringing:
    """What one delivery of a message brings."""

    def __init__(self, host: Host, job_id: str, generation: int) -> None:
        """Find the manifest that the message was sent for.

        Raises:
            AttemptStopped: there is nothing to do for it any more.
            ManifestStale: this host does not see it yet.
            VolumeMissing: it was unmounted.
        """
        self._host = host
        self._job_id = job_id
        self._generation = generation
        self._folder = host.volume.job(job_id)
        self._ends_seconds = time.monotonic() + host.settings.time_slice_seconds
        rate = self._look_at_record()
        self.manifest = self._read_manifest()
        self._rate = rate or self.manifest.spec.limit_rate
        self.attempt: Attempt | None = None  #: the last one, whose end decides what follows
        self.progress: Callable[[], Progress] | None = None  #: of that attempt; None: none had a lease
        self._began_seconds = time.monotonic()  # the last attempt
        self.took_over = False  #: something of a chunk whose message is another

    def bring(
        self, number: int, *, patience_seconds: float = 0.0, is_first: bool = False
    ) -> tuple[bool, Next]:
        """Bring what is missing of a chunk, and then what others are slow with.

        Args:
            number: which chunk.
            patience_seconds: how long to wait here for a connection.
            is_first: the message comes for the first time: the plan may be at the chunk's beginning.

        Returns:
            Whether the chunk is whole, if not, others are at the rest; and how the job stands.

        Raises:
            NoLease: all connections are taken, or somebody is at it.
            AttemptStopped, TransferError: as for `fetch_chunk`. What may go well later is not raised of a span that
                was taken over.
        """
        chunk = self.manifest.chunk(number)
        proven = self._folder.proven(self.manifest, chunk)
        if proven.is_whole:
            return True, self._tell_whole(number, proven)
        span = Span(number, proven.length_bytes)
        lease = self._take_lease(
            span,
            patience_seconds=patience_seconds,
            held_patience_seconds=_BEGINNING_PATIENCE_SECONDS if is_first and number == 0 else 0.0,
        )
        # What is in Redis is a view: a stop that does not fit the chunk is none.
        fits = lease.stop is not None and span.start < lease.stop < (chunk.length_bytes or 0)
        following = self._bring(dataclasses.replace(span, stop=lease.stop if fits else None))
        following = self._bring_all(following)
        return self._folder.proven(self.manifest, chunk).is_whole, following

    def _tell_whole(self, number: int, proven: Proven) -> Next:
        """Tell of a chunk that others brought, and help them if a connection is free."""
        has_lease = True
        try:
            self._take_lease(None)
        except NoLease:
            has_lease = False
        name = self.attempt.name if self.attempt else None
        attempt, progress = self._new_attempt(Span(number), name=name)
        # Of the first span, not of the chunk: each span's bytes are counted once. Told again: who brought it may have
        # been fenced off before it could say so.
        first = [each for each in proven.receipts if each.start == 0]
        attempt.begin_at(sum(each.length_bytes for each in first))
        self.attempt, self.progress = attempt, progress
        by_worker = first[0].brought_bytes if first else {}
        following = self._report(by_worker, is_whole=True, searches=has_lease)
        return self._bring_all(following)

    def take_over(self, on_found: Callable[[], None]) -> Next:
        """Bring what others are slow with or have left, if there is something.

        Args:
            on_found: called before the first is begun.
        """
        self._take_lease(None)
        following = self._report({}, is_whole=False)
        if following.span is not None:
            on_found()
        return self._bring_all(following)

    def give_lease_back(self, *, has_failed: bool = False) -> None:
        """Report how far the attempt came, if one was begun."""
        if self.progress is None:
            return
        progress = self.progress()
        if self.attempt is not None and self.attempt.has_lost_lease:
            # Another may be at the span, or have brought it: less than that must not be told of it.
            progress = dataclasses.replace(progress, done_bytes=None)
        try:
            held_seconds = self.attempt.held_seconds if self.attempt else 0
            tried_seconds = time.monotonic() - self._began_seconds - held_seconds
            if not self.has_brought and tried_seconds >= _NOTHING_SECONDS:
                self._host.connections.brought_nothing(progress)
            self._host.records.attempt_ended(progress, has_failed=has_failed)
        except RedisError as error:
            logger.warning("not reported error=%s", error)

    @property
    def has_brought(self) -> bool:
        """Whether the last attempt added a byte."""
        return self.attempt is not None and self.attempt.brought_bytes > 0

    def was_crowded_out(self, error: Exception) -> bool:
        """Whether the origin refused the last attempt's connection among others of ours; its lease was given back."""
        if self.progress is None or self.has_brought:
            return False
        return self._host.connections.was_crowded_out(self.progress(), error)

    def is_fenced(self) -> bool:
        """Whether a newer plan took over, or the job has ended; its files may be gone already, which is no failure."""
        # What is wrong with the volume is what there is to tell then.
        with contextlib.suppress(VolumeError):
            manifest = self._folder.read_manifest()
            if manifest is not None:
                return manifest.generation > self._generation
        try:
            state = self._host.records.state(self._job_id)
        except RedisError:
            return True
        # Of a job that goes on, somebody removed the folder: said by nobody, it would be waited for for ever.
        return state is None or not state.is_active

    def _read_manifest(self) -> Manifest:
        manifest = self._folder.read_manifest()
        if manifest is not None and manifest.generation == self._generation:
            return manifest
        if manifest is not None and manifest.generation > self._generation:
            raise AttemptStopped(StopReason.JOB_ENDED)
        if self._host.records.state(self._job_id) is not JobState.FETCHING:
            # A message too early or too late: what a plan sends, it sends after its manifest and of a fetching job.
            # Waited for, the manifest of a plan that takes its time would not come, and the job would fail for it.
            raise AttemptStopped(StopReason.JOB_ENDED)
        self._host.volume.check()
        raise ManifestStale(self._job_id, self._generation, manifest.generation if manifest else None)

    def _look_at_record(self) -> str | None:
        """Raise `AttemptStopped` if Redis says that the job has ended; the rate that was set since it was planned.

        First: what is left of a cancelled job's thousand messages must cost no more than this, and must not wait for
        connections. What Redis does not say, the manifest does.
        """
        try:
            state, rate = self._host.records.state_and_rate(self._job_id)
        except RedisError:
            return None
        if state is not None and not state.is_active:
            raise AttemptStopped(StopReason.JOB_ENDED)
        return rate

    def _take_lease(
        self, span: Span | None, *, patience_seconds: float = 0.0, held_patience_seconds: float = 0.0
    ) -> Lease:
        attempt, progress = self._new_attempt(span)
        length_bytes = None
        if span is not None and self.manifest.honours_ranges:
            length_bytes = (self.manifest.chunk(span.number).length_bytes or 0) - span.start
        lease = self._host.connections.take_lease(
            progress(),
            self.manifest.spec,
            limit_rate=self._rate,
            is_stream=not self.manifest.honours_ranges,
            length_bytes=length_bytes,
            patience_seconds=patience_seconds,
            held_patience_seconds=held_patience_seconds,
        )
        self.attempt, self.progress = attempt, progress
        if lease.state not in FETCHING_STATES:
            raise AttemptStopped(StopReason.JOB_ENDED)
        if span is not None:
            self._check_deaths(span, lease.deaths_count)
        return lease

    def _bring_all(self, following: Next) -> Next:
        """Bring what others are slow with or have left; one that fails is left to its chunk's message."""
        while following.span is not None:
            self.took_over = True
            self._check_deaths(following.span, following.deaths_count)
            try:
                following = self._bring(following.span)
            except (TransientError, RangesRefused) as error:
                logger.info("help failed job=%s span=%s cause=%s", self._job_id, following.span, error.code)
                return self._after_failed_help(error, following)
        return following

    def _check_deaths(self, span: Span, deaths_count: int) -> None:
        """Raise `WorkersDied` if too many did at this span, one after the other: this one would too."""
        if deaths_count >= self._host.settings.worker_deaths:
            chunk = self.manifest.chunk(span.number)
            last = "the end" if chunk.length_bytes is None else chunk.start + chunk.length_bytes - 1
            what = f"bytes {chunk.start + span.start} to {last} of {self.manifest.source_name}"
            raise WorkersDied(self._job_id, what, deaths_count)

    def _after_failed_help(self, error: TransferError, following: Next) -> Next:
        metrics.retried(self.manifest.origin, error.code)
        self.was_crowded_out(error)
        self.give_lease_back(has_failed=True)
        try:
            is_to_help = self._host.records.claim_help(self._job_id, self._host.name)
        except RedisError:
            is_to_help = False
        return Next(None, following.chunks_done, is_to_help=is_to_help)

    def _bring(self, span: Span) -> Next:
        """Bring one span under the lease that is held."""
        name = self.attempt.name if self.attempt else None
        self.attempt, self.progress = attempt, progress = self._new_attempt(span, name=name)
        self._began_seconds = began_seconds = time.monotonic()
        slice_seconds = self._ends_seconds - began_seconds if self.manifest.honours_ranges else None
        may_yield = self.manifest.honours_ranges  # else all would have to be fetched again
        try:
            with self._host.watch.over(
                attempt, progress, slice_seconds=slice_seconds, may_yield=may_yield, limit_rate=self._rate
            ):
                brought = fetch_chunk(
                    self._host.source(self.manifest.sealed_request),
                    self._folder,
                    self.manifest,
                    self.manifest.chunk(span.number),
                    attempt,
                    self._host.name,
                    span=span,
                )
        finally:
            seconds = max(time.monotonic() - began_seconds, 0.001)
            if attempt.brought_bytes > 0:
                # Without its job's limit it would have been quicker; by how much cannot be told of a few reads.
                free_seconds = max(seconds - attempt.held_by_job_seconds, seconds / 10)
                self._host.connections.reached(self.manifest.origin, attempt.brought_bytes, free_seconds)
        metrics.chunk_took(seconds)
        logger.info(
            "chunk fetched job=%s span=%s bytes=%d seconds=%.2f",
            self._job_id,
            span,
            attempt.brought_bytes,
            seconds,
        )
        return self._report(brought.by_worker, is_whole=brought.proven.is_whole)

    def _report(self, by_worker: dict[str, int], *, is_whole: bool, searches: bool = True) -> Next:
        """Report what was brought, and learn what to go on with."""
        manifest, progress = self.manifest, self.progress
        search = None
        is_in_time = searches and time.monotonic() < self._ends_seconds
        if manifest.honours_ranges and manifest.chunks_count > 1 and is_in_time:
            search = Search(
                chunks_count=manifest.chunks_count,
                chunk_size_bytes=manifest.chunk_size_bytes,
                size_bytes=manifest.size_bytes or 0,
                bytes_per_second=self._host.connections.bytes_per_second(manifest.origin),
                # What came twice would count twice for the limit.
                races=present_rate(self._rate) is None,
            )
        try:
            if progress is not None:
                return self._host.records.span_done(progress(), by_worker, is_whole=is_whole, search=search)
        except RedisError as error:
            logger.warning("not reported error=%s", error)
        return Next(None)

    def _new_attempt(
        self, span: Span | None, *, name: str | None = None
    ) -> tuple[Attempt, Callable[[], Progress]]:
        return self._host.new_attempt(
            self._job_id,
            span,
            generation=self._generation,
            origin=self.manifest.origin,
            priority=self.manifest.spec.priority,
            name=name,
        )
