"""Hashing a job's parts while others are still being fetched: a thread that follows the complete prefix.

Nothing depends on it. Where it has not come to the end, the merge reads all parts itself.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from tasks.jobs import JobState
from tasks.records import RedisError
from tasks.transfer.errors import TransferError
from tasks.transfer.whole_pass import WholePass, algorithms_to_pass

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tasks.host import Host
    from tasks.transfer.manifest import Manifest, Receipt
    from tasks.transfer.volume import JobFolder

logger = logging.getLogger(__name__)

#: Jobs that a process follows at a time; those that are more are hashed by their merge.
_MOST_FOLLOWED = 4
#: How often it looks for the next receipt, and says how far it is.
_LOOK_SECONDS = 0.02
_TELL_SECONDS = 0.25
#: How often it looks whether the job still goes on.
_CHECK_SECONDS = 2.0

_slots = threading.BoundedSemaphore(_MOST_FOLLOWED)


def follow(host: Host, manifest: Manifest) -> None:
    """Begin to follow a plan, if it has digests that need a pass and parts that come one after the other."""
    if manifest.chunks_count < 2 or not algorithms_to_pass(manifest):  # noqa: PLR2004
        return
    if not _slots.acquire(blocking=False):
        logger.info("not followed, for others are job=%s", manifest.job_id)
        return
    try:
        follower = _Follower(host, manifest)
        # Before its thread runs: the merge of a quick job would not see it, and read all parts beside it.
        follower.tell()
        threading.Thread(target=_run, args=(follower, manifest.job_id), name="follow", daemon=True).start()
    except (TransferError, RuntimeError) as error:
        _slots.release()
        logger.warning("not followed job=%s cause=%s", manifest.job_id, type(error).__name__)


def _run(follower: _Follower, job_id: str) -> None:
    try:
        follower.run()
    except (TransferError, RedisError) as error:
        # The job's folder has gone, as a rule.
        logger.info("no longer followed job=%s cause=%s", job_id, type(error).__name__)
    except Exception:
        logger.exception("follower stumbled job=%s", job_id)
    finally:
        _slots.release()


class _Follower:
    """The following of one plan."""

    def __init__(self, host: Host, manifest: Manifest) -> None:
        self._host = host
        self._manifest = manifest
        self._folder: JobFolder = host.volume.job(manifest.job_id)
        self._pass = WholePass(self._folder, manifest)
        self._told_seconds = self._checked_seconds = time.monotonic()
        self._told_bytes = 0

    def run(self) -> None:
        """Hash until all is hashed, a part is not what came, or the job does not go on."""
        for receipt in self._receipts():
            for _ in self._pass.read(receipt):
                if self._host.watch.is_draining:
                    return
                if time.monotonic() - self._told_seconds > _TELL_SECONDS:
                    self.tell()
            if self._pass.bad:
                # The merge finds all that are bad, and has them fetched again.
                self._folder.forget_followed(self._manifest)
                return
        self.tell()

    def tell(self) -> None:
        """Leave on the volume how far it is."""
        self._told_seconds, self._told_bytes = time.monotonic(), self._pass.length_bytes
        self._folder.write_followed(self._manifest, self._pass.followed())

    def _receipts(self) -> Iterator[Receipt]:
        """All receipts in order, each as soon as it is there."""
        for chunk in self._manifest.chunks():
            taken = 0
            while True:
                proven = self._folder.proven(self._manifest, chunk)
                for receipt in proven.receipts[taken:]:
                    yield receipt
                    if not self._goes_on():
                        return
                if proven.is_whole:
                    break
                if len(proven.receipts) == taken:
                    if self._told_bytes != self._pass.length_bytes:
                        self.tell()
                    time.sleep(_LOOK_SECONDS)
                    if not self._goes_on():
                        return
                taken = len(proven.receipts)

    def _goes_on(self) -> bool:
        if self._host.watch.is_draining:
            return False
        now = time.monotonic()
        if now - self._checked_seconds < _CHECK_SECONDS:
            return True
        self._checked_seconds = now
        present = self._folder.read_manifest()
        if present is None or present.generation != self._manifest.generation:
            return False
        state = self._host.records.state(self._manifest.job_id)
        return state in (JobState.FETCHING, JobState.MERGING)
