"""The Celery task that reads a finished file once more, for somebody whose host may not have the volume."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.answering import answer
from tasks.app import VERIFY_TASK, app
from tasks.host import host, new_attempt_name
from tasks.jobs import JobState
from tasks.transfer.digests import CRC32C
from tasks.transfer.errors import BadOption
from tasks.transfer.verify_file import Verification, verify_file

if TYPE_CHECKING:
    from tasks.host import Host


@app.task(name=VERIFY_TASK, ignore_result=True)
def verify(job_id: str, token: str) -> None:
    """Compare the published file of a complete job with its record.

    Args:
        job_id: whose.
        token: names the question; whoever asked waits for the answer under this name.
    """
    here = host()
    answer(here, job_id, token, lambda: _verify(here, job_id))


def _verify(here: Host, job_id: str) -> Verification:
    record, destination = here.records.read(job_id), here.records.destination(job_id)
    if record.state is not JobState.COMPLETE or destination is None:
        raise BadOption(f"Job {job_id} is {record.state}; there is a file to verify when it is complete.")
    here.volume.check()
    # Not the record's path: hosts may have the volume at different places.
    path = here.volume.path_of(destination)
    digests = dict(record.digests)
    if record.crc32c is not None:  # of a file that was there before, only what its user gave is known
        digests[CRC32C] = record.crc32c
    attempt = here.watch.new_attempt(new_attempt_name())
    with here.watch.guarding(attempt):
        return verify_file(path, digests, size_bytes=record.size_bytes, check=attempt.check)
