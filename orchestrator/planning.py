"""The planning of one job: probe, decide, write the manifest, send the chunks.

A file that fits one chunk is fetched and published right here: the answer to the probe is its body.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import secrets
from typing import TYPE_CHECKING

from orchestrator import adoption, checksums, dispatch, planner
from orchestrator.destination import AlreadyPublished, Destination
from orchestrator.probe_body import Reader
from tasks import outcomes, restoring
from tasks.app import FEW_MESSAGES_COUNT
from tasks.connections import CROWDED_OUT_SECONDS, NoLease
from tasks.follow import follow
from tasks.host import Host, new_attempt_name
from tasks.jobs import FETCHING_STATES, JobState
from tasks.records import RedisError
from tasks.restoring import shown_of, sort_chunks
from tasks.transfer.attempt import AttemptStopped, StopReason
from tasks.transfer.digests import agree
from tasks.transfer.errors import (
    BadOption,
    TooLarge,
    TransientError,
    WorkersDied,
    origin_of,
)
from tasks.transfer.manifest import LayoutName, Manifest, Span

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tasks.records import Asked, Progress
    from tasks.transfer.attempt import Attempt
    from tasks.transfer.http_source import Probe, Source
    from tasks.transfer.manifest import Chunk

logger = logging.getLogger(__name__)

_NEVER_FENCED = 2**31


class Crowded(Exception):
    """So many messages wait that a large plan has to; it is stored, and what it misses is to be sent later."""


class Planning:
    """The planning of one job."""

    def __init__(self, here: Host, job_id: str, asked: Asked, touched_before: float | None) -> None:
        """Take what was asked for, and when a job that has the destination was seen to write last."""
        self._host = here
        self._job_id = job_id
        self._spec = asked.spec
        self._asked = asked
        self._folder = here.volume.job(job_id)
        self._destination = Destination(here, job_id, touched_before)
        self._attempt_name = new_attempt_name()  # one for all that it does: the lease is under this name

    def run(self, void_generation: int | None, *, as_stream: bool) -> None:
        """Plan; the job is fetching or complete then."""
        self._host.volume.check()
        self._folder.create()
        manifest = self._folder.read_manifest()
        if manifest is not None and manifest.job_id != self._job_id:
            manifest = None  # another job's, that an earlier delivery of this message was about to go on with
        if manifest is None or manifest.generation == void_generation:
            self._plan(manifest, as_stream=as_stream)
        else:
            # Also when the void plan has its successor: its worker may have died before it sent that.
            self._send_missing(manifest)

    def _plan(self, void: Manifest | None, *, as_stream: bool) -> None:
        """Probe, decide and send; `void` is the plan that this one takes the place of, if there was one."""
        source = self._host.source(self._asked.sealed_request)
        attempt, progress = self._new_attempt(source)
        lease = self._host.connections.take_lease(progress(), self._spec)
        try:
            if lease.deaths_count >= self._host.settings.worker_deaths:
                raise WorkersDied(self._job_id, f"the beginning of {source.name}", lease.deaths_count)
            self._read_checksums(source)
            probe = self._probe(source, attempt, progress, as_stream=as_stream)
            with probe.body:
                manifest, is_stored = self._decide(source, probe, void, progress)
                if not is_stored and self._use_answer(manifest, source, probe, void):
                    return
        finally:
            self._give_lease_back(progress)
        # The lease is back by now: the one chunk would wait for it.
        self._send(manifest)

    def _use_answer(self, manifest: Manifest, source: Source, probe: Probe, void: Manifest | None) -> bool:
        """Store a plan and make use of the probe's answer; False if the chunks are still to be sent."""
        if manifest.chunks_count > 1:
            self._write(manifest, void)
            if self._send(manifest):
                # This is of the first chunk now, and fenced like it.
                reader = self._reader(source, generation=manifest.generation)
                reader.keep_beginning(manifest, probe.body)
            return True
        if manifest.size_bytes is not None and self._reader(source).take_whole(manifest, source, probe.body):
            return True
        self._write(manifest, void)
        return False

    def _reader(self, source: Source, *, generation: int = _NEVER_FENCED) -> Reader:
        return Reader(self._host, *self._new_attempt(source, generation=generation))

    def _give_lease_back(self, progress: Callable[[], Progress]) -> None:
        try:
            # Without a count of bytes: the first chunk's task may have come further by now.
            self._host.records.attempt_ended(dataclasses.replace(progress(), done_bytes=None))
        except RedisError as error:
            # It ends by itself; and a job whose chunks were sent must not fail for it.
            logger.warning("lease not given back job=%s error=%s", self._job_id, error)

    def _read_checksums(self, file: Source) -> None:
        """Learn the file's digests from a list of checksums, if one goes with the job."""
        source = self._host.checksums_source(self._asked.sealed_request)
        if source is None:
            return
        attempt, progress = self._new_attempt(file)
        with self._host.watch.over(attempt, progress, slice_seconds=None):
            text = source.read_text(checksums.MOST_BYTES, attempt)
        found = checksums.choose(text, checksums.names_of(file.name, self._spec.output), source=source.name)
        try:
            digests = agree([*self._spec.digests.items(), *found.items()])
        except ValueError as error:
            raise BadOption(f"{source.name} contradicts the digest that was given: {error}.") from None
        self._spec = self._spec.model_copy(update={"digests": digests})

    def _probe(
        self, source: Source, attempt: Attempt, progress: Callable[[], Progress], *, as_stream: bool
    ) -> Probe:
        """Probe, and have others know what the origin said of too many requests."""
        first_bytes = planner.probe_bytes(self._spec.chunk_size_bytes)
        try:
            with self._host.watch.over(attempt, progress, slice_seconds=None):
                return source.probe(first_bytes, attempt, as_stream=as_stream)
        except TransientError as error:
            # Not a failed probe: other jobs have all the connections that the origin allows.
            if self._host.connections.was_crowded_out(progress(), error):
                raise NoLease(CROWDED_OUT_SECONDS) from None
            asked_seconds = error.retry_after_seconds
            if (
                asked_seconds is not None
                and asked_seconds <= self._host.policy_for(self._spec).max_wait_seconds
            ):
                self._host.records.cool_down(progress().origin, asked_seconds)
            raise

    def give_up(self, error: Exception) -> None:
        """Say why; without a manifest nothing is worth keeping."""
        outcomes.fail(self._host, self._job_id, error)
        self.clean_up()

    def clean_up(self) -> None:
        """Remove what a job that has ended left before it had a manifest; of one that goes on, nothing."""
        state = self._host.records.state(self._job_id)
        if (state is not None and state.is_active) or self._folder.read_manifest() is not None:
            return
        if state is None:
            # Redis was emptied meanwhile: nobody else knows any more what was asked for.
            url = self._host.source(self._asked.sealed_request).name
            restoring.keep(self._host, self._job_id, self._asked, url)
        else:
            outcomes.remove(self._host, self._job_id, self._destination.reserved)

    def _decide(
        self, source: Source, probe: Probe, void: Manifest | None, progress: Callable[[], Progress]
    ) -> tuple[Manifest, bool]:
        """Reserve the destination, and choose chunk size and layout; or go on with what an earlier job has left.

        Returns:
            The manifest, and whether it is stored already, because there is something to go on with.
        """
        spec, size_bytes = self._spec, probe.identity.size_bytes
        if spec.max_size_bytes is not None and (size_bytes or 0) > spec.max_size_bytes:
            raise TooLarge(source.name, size_bytes or 0, spec.max_size_bytes)
        destination = planner.choose_name(spec.output, probe.offered_name, source.name)
        if void is not None:
            destination = void.destination
        # By a plan that died before it could say so, or is about to.
        with contextlib.suppress(AlreadyPublished):
            self._destination.make_sure_it_is_missing(destination, spec, size_bytes)
        before = self._destination.reserve(destination)
        wanted = self._wanted(source, probe, void, destination)
        adopted = None if void else adoption.adopt(self._host, wanted, probe, before)
        if adopted is not None:
            self._go_on_with(adopted)
            return adopted, True
        # Before the chunk size, about which nothing can be done for a file that has no room whatever its chunks.
        self._host.volume.check_space(size_bytes or 0)
        chunk_size_bytes = planner.choose_chunk_size_bytes(
            size_bytes,
            spec.chunk_size_bytes,
            connections=self._host.connections.count(spec, progress().origin),
        )
        manifest = wanted.model_copy(update={"chunk_size_bytes": chunk_size_bytes})
        layout = self._choose_layout(manifest)
        self._show(manifest, forgets_progress=True, stays=progress())
        return manifest.model_copy(update={"layout": layout}), False

    def _wanted(self, source: Source, probe: Probe, void: Manifest | None, destination: str) -> Manifest:
        """The manifest without what there is to choose yet."""
        size_bytes = probe.identity.size_bytes
        return Manifest(
            job_id=self._job_id,
            generation=void.generation + 1 if void else 1,
            plan_name=secrets.token_hex(6),
            restarts_count=void.restarts_count + 1 if void else 0,
            destination=destination,
            source_name=source.name,
            size_bytes=size_bytes,
            validator=probe.identity.validator,
            honours_ranges=probe.honours_ranges,
            content_coding=probe.content_coding,
            offered_digests=probe.offered_digests,
            has_query=source.has_query,
            chunk_size_bytes=max(size_bytes or 0, 1),
            layout=LayoutName.PARTS,
            spec=self._spec,
            sealed_request=self._asked.sealed_request,
            created_at=self._asked.created_at,
            cluster=self._host.cluster,
        )

    def _choose_layout(self, manifest: Manifest) -> LayoutName:
        """Choose how parts lie on the volume, and make sure that there is room."""
        volume, count = self._host.volume, manifest.chunks_count
        clones = count > 1 and volume.clones(self._job_id)
        layout = planner.choose_layout(
            self._spec.layout, validator=manifest.validator, chunks_count=count, clones=clones
        )
        volume.check_space(
            planner.needed_bytes(manifest.size_bytes, layout, chunks_count=count, clones=clones)
        )
        return layout

    def _go_on_with(self, manifest: Manifest) -> None:
        """Say how much of a file is there, and make sure that there is room for the rest."""
        volume, records, count = self._host.volume, self._host.records, manifest.chunks_count
        kept_bytes = self._folder.kept_bytes(manifest)
        self._show(manifest, {"resumed_bytes": kept_bytes}, forgets_progress=True)
        records.adopt(self._job_id, sort_chunks(self._folder, manifest)[0])
        logger.info("job adopted job=%s bytes=%d", self._job_id, kept_bytes)
        clones = manifest.layout is LayoutName.PARTS and volume.clones(self._job_id)
        needed_bytes = planner.needed_bytes(
            manifest.size_bytes, manifest.layout, chunks_count=count, clones=clones
        )
        volume.check_space(max(0, needed_bytes - kept_bytes))

    def _write(self, manifest: Manifest, void: Manifest | None) -> None:
        """Store the plan."""
        if void is not None:
            present = self._folder.read_manifest()
            if present is None or present.generation != void.generation:
                raise AttemptStopped(StopReason.JOB_ENDED)  # another successor of the void plan was quicker
            self._folder.replace_plan(manifest)
        elif not self._folder.write_first_manifest(manifest):
            raise AttemptStopped(StopReason.JOB_ENDED)  # this message came twice, and the other was quicker

    def _send_missing(self, manifest: Manifest) -> None:
        """Send again what has no receipt, as a new generation: what is left of the older one is fenced off."""
        self._check_room(manifest)
        with self._host.at_work(self._job_id):
            self._send_again(manifest)

    def _send_again(self, manifest: Manifest) -> None:
        with contextlib.suppress(AlreadyPublished):  # then the merge has only to say so
            self._destination.check(manifest.destination, self._spec)
        self._destination.reserve(manifest.destination)
        update = {"generation": manifest.generation + 1, "cluster": self._host.cluster}
        manifest = manifest.model_copy(update=update)
        # Before the manifest, which fences off what runs: if the job is another's by now, nothing is touched.
        self._show(manifest)
        self._folder.write_manifest(manifest)
        self._folder.unmark_left()
        receipts, missing = sort_chunks(self._folder, manifest)
        self._host.records.rejoin(self._job_id, receipts)
        # As they were then: one whose receipt has come since is not known to be done, and its message tells so.
        self._send(manifest, missing)

    def _send(self, manifest: Manifest, missing: list[Chunk] | None = None) -> bool:
        """Send these chunks, or what is missing; False if the job was paused or has ended.

        Raises:
            Crowded: it is too much for now.
        """
        self._check_room(manifest)
        # The state first: a chunk task that runs at once must find a job that is fetching.
        is_on = self._host.records.transition(self._job_id, JobState.FETCHING, allowed=FETCHING_STATES)
        if is_on:
            self._host.volume.unplanned_jobs.forget(self._job_id)
            follow(self._host, manifest)
            chunks = self._folder.missing(manifest) if missing is None else missing
            dispatch.send(self._host.records, manifest, chunks)
        return is_on

    def _check_room(self, manifest: Manifest) -> None:
        is_large = manifest.chunks_count > FEW_MESSAGES_COUNT
        if not is_large or dispatch.has_room(self._host.records, manifest.spec.priority):
            return
        if len(self._folder.missing(manifest)) > FEW_MESSAGES_COUNT:
            raise Crowded

    def _show(
        self,
        manifest: Manifest,
        more: Mapping[str, int] | None = None,
        *,
        forgets_progress: bool = False,
        stays: Progress | None = None,
    ) -> None:
        """Put what was decided in the record. The generation stops what still runs for an older one."""
        fields = {**shown_of(self._host, manifest), **(more or {})}
        if not self._host.records.transition(
            self._job_id,
            JobState.PLANNING,
            allowed={JobState.PLANNING},
            fields=fields,
            forgets_progress=forgets_progress,
            stays=stays,
        ):
            raise AttemptStopped(StopReason.JOB_ENDED)

    def _new_attempt(
        self, source: Source, *, generation: int = _NEVER_FENCED
    ) -> tuple[Attempt, Callable[[], Progress]]:
        # Generation: a plan is not fenced by the sendings it makes.
        return self._host.new_attempt(
            self._job_id,
            Span(0),
            generation=generation,
            origin=origin_of(source.name),
            priority=self._spec.priority,
            name=self._attempt_name,
        )
