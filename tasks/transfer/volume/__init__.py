"""The volume: the directory that all workers share. The only package that touches files.

    <volume>/.orchestrator/            mode 0700
        reserved/<hash>                which unfinished job writes to a destination, and which one had it before
        unplanned/<job_id>.json        what was asked for of a job that waits for its plan
        <job_id>/left                  nobody is at it, and why: it is paused, has failed, or its Redis ended
        <job_id>/manifest.json         the plan
        <job_id>/plan-<name>/          the parts of one plan, their checkpoints and receipts, what was hashed of them
    <volume>/<destination>             appears by one link or rename, complete and checked

No file is locked: locks silently do nothing on some shared filesystems. What two processes could
fight over is decided by an atomic create, link or rename.
"""

from tasks.transfer.volume.files import read_blocks
from tasks.transfer.volume.job_folder import ENDED, JobFolder
from tasks.transfer.volume.leftovers import Leftovers
from tasks.transfer.volume.part_writer import PartWriter
from tasks.transfer.volume.root import Volume

__all__ = ["ENDED", "JobFolder", "Leftovers", "PartWriter", "Volume", "read_blocks"]
