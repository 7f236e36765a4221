"""Pruning: what nobody will come back to is removed, from the records and from the volume.

The records say which jobs have ended and when. Of a job that they do not know, which may be another cluster's, the
times of its files have to do.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from tasks.jobs import JobState
from tasks.records import Ending
from tasks.transfer.volume import Leftovers

if TYPE_CHECKING:
    from tasks.host import Host
    from tasks.records import Records
    from tasks.transfer.volume import Volume

logger = logging.getLogger(__name__)

#: What another cluster may be at is kept for this long at least: a chunk may wait for hours, a digest be computed.
LEAST_STRANGER_SECONDS = 24 * 3600
#: A temporary file is there for a moment; what is older belongs to nobody.
_DEBRIS_SECONDS = 3600


class Pruned(BaseModel):
    """What was removed; on a dry run, what would be."""

    model_config = ConfigDict(frozen=True)

    jobs: list[str] = []  #: whose records or parts are gone
    bytes: int = 0  #: that the volume has back
    leftovers_count: int = 0  #: files and folders that belonged to no job: of writers that died
    stuck: list[str] = []  #: jobs whose parts could not be removed
    is_dry_run: bool = False


def prune_by_age(host: Host) -> Pruned:
    """Remove what is as old as records of ended jobs become."""
    return prune(host.volume, host.records, older_than_seconds=host.settings.record_age_seconds)


def prune(
    volume: Volume, records: Records | None, *, older_than_seconds: float, is_dry_run: bool = False
) -> Pruned:
    """Remove what nobody will come back to. Never of a job that is active or paused.

    Removed are jobs that ended so long ago, with their records and parts; parts of jobs without a record that nobody
    has written to for so long, and for a day at least unless they were left on purpose; what was asked for of such
    jobs without a plan; what complete and cancelled jobs still have; reservations of jobs that are gone; what writers
    left that died.

    Args:
        volume: whose leftovers.
        records: of the cluster; None: there is none, and no job has a record.
        older_than_seconds: so long ago.
        is_dry_run: only say what would be removed.

    Raises:
        VolumeError: the volume cannot be read or written.
        RedisError: Redis cannot be used; without it nothing is removed.
    """
    return _Pruning(volume, records, older_than_seconds, is_dry_run=is_dry_run).run()


class _Pruning:
    def __init__(
        self, volume: Volume, records: Records | None, older_than_seconds: float, *, is_dry_run: bool
    ) -> None:
        self._volume = volume
        self._left = Leftovers(volume)
        self._records = records
        self._older_than_seconds = older_than_seconds
        self._is_dry_run = is_dry_run
        self._removed_bytes = 0
        self._leftovers_count = 0
        self._stuck: list[str] = []

    def run(self) -> Pruned:
        self._volume.check()
        now = self._left.now()
        # Before Redis is asked: a job has a record before it has a folder.
        job_ids = self._left.job_ids() if now is not None else []
        forgotten = set(self._forget())
        removed = {
            job_id for job_id in self._removable(job_ids, forgotten, now or 0.0) if self._remove(job_id)
        }
        if now is not None:
            self._end_reservations(set(job_ids), removed)
            self._forget_unplanned(now)
            self._clear_debris(now)
        pruned = Pruned(
            jobs=sorted(forgotten | removed),
            bytes=self._removed_bytes,
            leftovers_count=self._leftovers_count,
            stuck=sorted(self._stuck),
            is_dry_run=self._is_dry_run,
        )
        if pruned.jobs or pruned.leftovers_count:
            logger.info(
                "pruned jobs=%d bytes=%d leftovers=%d dry_run=%s",
                len(pruned.jobs),
                pruned.bytes,
                pruned.leftovers_count,
                pruned.is_dry_run,
            )
        return pruned

    def _forget(self) -> list[str]:
        """The jobs whose records are not needed any more; these are removed."""
        if self._records is None:
            return []
        before = time.time() - self._older_than_seconds
        forgotten = self._records.forget_ended(before, is_dry_run=self._is_dry_run)
        if not self._is_dry_run:
            self._records.expire_orphans()
        return forgotten

    def _removable(self, job_ids: list[str], forgotten: set[str], now: float) -> list[str]:
        """Those of these jobs with a folder whose parts nobody needs any more."""
        found = []
        names = self._records.known_names() if self._records is not None else set()
        for job_id, ending in zip(job_ids, self._endings(job_ids), strict=True):
            is_over = job_id in forgotten or ending.leaves_nothing
            if is_over and self._may_be_of(names, job_id):
                found.append(job_id)
            elif is_over or ending.state is None:
                if self._is_abandoned(job_id, now):
                    found.append(job_id)
            elif not ending.state.is_final and not self._is_dry_run:
                # Another cluster that shares the volume knows nothing of a job that has been paused for long.
                self._volume.job(job_id).touch()
        return found

    def _endings(self, job_ids: list[str]) -> list[Ending]:
        if self._records is None:
            return [Ending(None)] * len(job_ids)
        return self._records.endings(job_ids)

    def _may_be_of(self, names: set[str], job_id: str) -> bool:
        manifest = self._volume.job(job_id).read_manifest()
        return manifest is None or manifest.may_be_of(names)

    def _is_abandoned(self, job_id: str, now: float) -> bool:
        folder = self._volume.job(job_id)
        left_as = folder.left_as
        if left_as == JobState.PAUSED:
            return False
        touched_at = folder.touched_at()
        least_seconds = LEAST_STRANGER_SECONDS if left_as is None else 0
        return touched_at is not None and touched_at < now - max(self._older_than_seconds, least_seconds)

    def _remove(self, job_id: str) -> bool:
        folder = self._volume.job(job_id)
        count_bytes = self._left.bytes_of(folder.path)
        if not self._is_dry_run and not folder.discard():
            logger.warning("parts not removed job=%s", job_id)
            self._stuck.append(job_id)
            return False
        self._removed_bytes += count_bytes
        return True

    def _end_reservations(self, job_ids: set[str], removed: set[str]) -> None:
        """End those of jobs that have nothing on the volume, which a job has as long as it is at work."""
        reservations = [
            (name, holder)
            for name, holder in self._volume.reservations().items()
            if holder is not None and holder not in job_ids - removed
        ]
        endings = self._endings([holder for _, holder in reservations])
        for (name, holder), ending in zip(reservations, endings, strict=True):
            if ending.state is not None and not ending.state.is_final:
                continue
            # Its folder may have come to be since they were looked for.
            if not self._is_dry_run and self._volume.job(holder).path.exists():
                continue
            self._leftovers_count += holder not in removed
            if not self._is_dry_run:
                self._volume.end_reservation(name, holder)

    def _forget_unplanned(self, now: float) -> None:
        """Remove what was asked for of jobs without a record that have waited for their plan for so long."""
        unplanned = self._volume.unplanned_jobs
        job_ids = unplanned.job_ids()
        before = now - max(self._older_than_seconds, LEAST_STRANGER_SECONDS)
        for job_id, ending in zip(job_ids, self._endings(job_ids), strict=True):
            # A cluster whose job it is, and that still knows it, stores it again.
            if ending.state is None and unplanned.kept_at(job_id) < before:
                self._leftovers_count += 1
                if not self._is_dry_run:
                    unplanned.forget(job_id)

    def _clear_debris(self, now: float) -> None:
        for path in self._left.debris(before=now - _DEBRIS_SECONDS):
            self._leftovers_count += 1
            self._removed_bytes += self._left.bytes_of(path)
            if not self._is_dry_run:
                self._left.remove(path)
        if not self._is_dry_run:
            self._left.tidy()
