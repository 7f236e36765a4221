"""What becomes of the probe's answer: it is all of a file of one chunk, and the beginning of any other."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks import outcomes
from tasks.bringing import BEGINNING_SECONDS
from tasks.host import new_attempt_name
from tasks.jobs import JobState
from tasks.transfer.attempt import AttemptStopped, StopReason
from tasks.transfer.errors import PlanVoidError, TransferError, TransientError
from tasks.transfer.fetch_chunk import fetch_chunk, keep_beginning
from tasks.transfer.merge_parts import Incomplete, Merged, publish_parts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tasks.host import Host
    from tasks.records import Progress
    from tasks.transfer.attempt import Attempt
    from tasks.transfer.http_source import Body, Source
    from tasks.transfer.manifest import Manifest, Receipt
    from tasks.transfer.volume import JobFolder

logger = logging.getLogger(__name__)

#: How long a plan may go on fetching: a control slot is for plans, chunks have slots of their own.
_PLAN_SLICE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Reader:
    """Who reads the answer, and what is reported of it."""

    host: Host
    attempt: Attempt
    progress: Callable[[], Progress]

    def take_whole(self, manifest: Manifest, source: Source, body: Body) -> bool:
        """Fetch and publish a file of one chunk; False if it takes too long for here."""
        folder = self.host.volume.job(manifest.job_id)
        receipts: tuple[Receipt, ...] = ()
        folder.make_plan_folder(manifest)
        if manifest.chunks_count:
            try:
                with self.host.watch.over(
                    self.attempt,
                    self.progress,
                    slice_seconds=_PLAN_SLICE_SECONDS,
                    limit_rate=manifest.spec.limit_rate,
                ):
                    body.hand_to(self.attempt)
                    brought = fetch_chunk(
                        source,
                        folder,
                        manifest,
                        manifest.chunk(0),
                        self.attempt,
                        self.host.name,
                        opened=body,
                    )
            except (AttemptStopped, TransientError, PlanVoidError) as error:
                if isinstance(error, AttemptStopped) and error.reason is not StopReason.SLICE:
                    raise
                return False
            receipts = brought.proven.receipts
            self.host.records.span_done(self.progress(), brought.by_worker, is_whole=True)
        result = self._publish(manifest, receipts)
        if isinstance(result, Incomplete):
            return False
        outcomes.complete(self.host, manifest, result)
        return True

    def _publish(self, manifest: Manifest, receipts: Sequence[Receipt]) -> Merged | Incomplete:
        """Publish, unless the job was cancelled or planned by others, as it may be while this process stood still."""
        volume = self.host.volume
        guard = self.host.watch.new_attempt(new_attempt_name())
        with self.host.watch.guarding(guard, manifest.job_id, states={JobState.PLANNING}):
            # Whether it stood still since the file was fetched, too.
            self.attempt.check_lease()
            return publish_parts(
                volume,
                volume.job(manifest.job_id),
                manifest,
                receipts,
                check=guard.check,
                may_publish=lambda: (
                    not _is_superseded(volume.job(manifest.job_id), manifest)
                    and outcomes.is_still(self.host, manifest.job_id, JobState.PLANNING)
                ),
            )

    def keep_beginning(self, manifest: Manifest, body: Body) -> None:
        """Save it as the beginning of the first chunk, whose task waits for this lease meanwhile.

        All chunks are sent by now: nothing that happens here may end the job.
        """
        try:
            with self.host.watch.over(
                self.attempt,
                self.progress,
                slice_seconds=BEGINNING_SECONDS,
                limit_rate=manifest.spec.limit_rate,
            ):
                body.hand_to(self.attempt)
                keep_beginning(
                    self.host.volume.job(manifest.job_id),
                    manifest,
                    manifest.chunk(0),
                    body,
                    self.attempt,
                    self.host.name,
                    most_seconds=BEGINNING_SECONDS,
                )
        except (AttemptStopped, TransferError) as error:
            # What came is saved; the chunk's task goes on there. What is wrong with the volume it finds out too, and
            # whether that is a failure: the folder of a void plan goes away at any time.
            logger.info("beginning cut short job=%s cause=%s", manifest.job_id, type(error).__name__)


def _is_superseded(folder: JobFolder, manifest: Manifest) -> bool:
    """Whether another plan of the job was stored; this one is not, and what it takes the place of is older."""
    present = folder.read_manifest()
    return present is not None and present.generation >= manifest.generation
