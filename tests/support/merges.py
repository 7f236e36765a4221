"""Merges that a test catches in the middle."""

from __future__ import annotations

import contextlib
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tasks.transfer.errors import VolumeError
from tasks.transfer.manifest import Followed
from tasks.transfer.volume import Volume
from tasks.transfer.whole_pass import algorithms_to_pass

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def held_merge(root: Path, job_id: str) -> Iterator[None]:
    """Within, the job's merge waits: for one who hashes the parts, goes on and on, and does not come to the end.

    The job needs a digest, and the process that planned it must be gone.
    """
    folder = Volume(root).job(job_id)
    manifest = folder.read_manifest()
    assert manifest is not None
    nothing = dict.fromkeys(algorithms_to_pass(manifest), "00")
    assert nothing
    over = threading.Event()

    def go_on() -> None:
        length_bytes = 0
        while not over.wait(0.3):
            length_bytes += 1
            with contextlib.suppress(VolumeError):  # the job was removed
                folder.write_followed(
                    manifest, Followed(receipts_id="held", length_bytes=length_bytes, digests=nothing)
                )

    thread = threading.Thread(target=go_on, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
