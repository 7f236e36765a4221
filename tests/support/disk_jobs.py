"""Jobs on disks that fail in their middle: what they keep, and that `resume` fetches nothing of it again."""

from __future__ import annotations

import hashlib
import json
import random
from typing import TYPE_CHECKING

from support.files import MIB, sha256_of, wait_until_clean
from support.system_helpers import stored_bytes
from support.tools import wait_until
from tasks.transfer.volume import Volume

if TYPE_CHECKING:
    from pathlib import Path

    from support.cluster import Cluster
    from support.origin import Origin

CONTENT = random.Random(13).randbytes(24 * MIB + 5)
_SHA256 = hashlib.sha256(CONTENT).hexdigest()
#: With a connection each that is so quick, a job ends long after whatever a test does in its middle.
_BYTES_PER_SECOND = 1.5 * MIB
#: A connection that is so slow is seen to be open for much longer than anything is waited for.
_CRAWL_BYTES_PER_SECOND = 32 * 1024


def manifest_of(volume: Path) -> dict[str, object]:
    """The only job's manifest, as soon as there is one."""
    paths: list[Path] = []

    def is_there() -> list[Path]:
        paths[:] = volume.glob(".orchestrator/*/manifest.json")
        return paths

    wait_until(is_there, what="a manifest")
    manifest: dict[str, object] = json.loads(paths[0].read_text())
    return manifest


def in_the_middle(one: Cluster, served: Origin, *options: str) -> str:
    """A job that has some of its bytes; its id."""
    served.bytes_per_second = _BYTES_PER_SECOND
    started = one.run("submit", served.url, "--chunk-size", "4M", "--detach", *options)
    assert started.returncode == 0, started.stderr
    wait_until(lambda: stored_bytes(one.volume) > 12 * MIB, what="the middle of the job")
    return started.stdout.strip()


def failed(one: Cluster, served: Origin, job_id: str, *codes: str) -> str:
    """Wait until the job has failed, as a user does; what it says.

    All connections are closed then, and no message is left that would open another.
    """
    done = one.run("wait", job_id, "--json")
    assert done.returncode == 4, done.stderr + done.stdout
    requests_count = len(served.requests)
    error = json.loads(done.stdout)["error"]
    assert error["code"] in codes, done.stdout
    assert "orchestrator resume" in error["message"]
    # Slower than any wait: those who stop have been told to.
    served.bytes_per_second = _CRAWL_BYTES_PER_SECOND
    wait_until(lambda: served.open_count == 0, what="all connections being closed")
    wait_until(lambda: not _messages_count(one), what="no message being left")
    assert len(served.requests) == requests_count
    served.bytes_per_second = None
    return str(error["message"])


def _messages_count(one: Cluster) -> int:
    """Messages that workers have, or will have."""
    return one.waiting_count("control", "merge", "chunks") + int(one.redis.client().hlen("manyhands:unacked"))


def kept_bytes(volume: Path, job_id: str) -> int:
    """The least that need not be fetched any more, as receipts and checkpoints say; nothing has the destination's name.

    What was taken over of a chunk's end is not in it while something before that is missing; it may be of use too.
    """
    assert not (volume / "big.bin").exists()
    folder = Volume(volume).job(job_id)
    manifest = folder.read_manifest()
    assert manifest is not None
    return folder.kept_bytes(manifest)


def resumed(one: Cluster, served: Origin, job_id: str) -> int:
    """Have the job go on to its end; how many bytes the origin was asked for."""
    before_count = len(served.requests)
    done = one.run("resume", job_id)
    assert done.returncode == 0, done.stderr
    done = one.run("wait", job_id)
    assert done.returncode == 0, done.stderr + one.log()
    asked_bytes = 0
    for asked in served.requests[before_count:]:
        first, _, last = asked.removeprefix("bytes=").partition("-")
        asked_bytes += int(last) + 1 - int(first)
    return asked_bytes


def assert_is_whole(volume: Path) -> None:
    """The file is there, and nothing else; it is removed."""
    wait_until_clean(volume)
    assert [path.name for path in volume.iterdir() if path.name != "lost+found"] == ["big.bin"]
    assert sha256_of(volume / "big.bin") == _SHA256
    (volume / "big.bin").unlink()
