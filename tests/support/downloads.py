"""Whole downloads through a cluster: what is published, what is refused, and that nothing else is left."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from support.files import sha256_of, wait_until_clean
from support.system_helpers import told_error

if TYPE_CHECKING:
    from support.cluster import Cluster


class Refusal(NamedTuple):
    """How a job failed."""

    code: str
    sentence: str


def published(volume: Path) -> list[str]:
    """The names of all files on a volume that are no unfinished job's."""
    names = []
    # Not rglob: it stumbles over a folder that is removed meanwhile.
    for folder, folders, files in os.walk(volume):
        if ".orchestrator" in folders:
            folders.remove(".orchestrator")
        names += [str((Path(folder) / name).relative_to(volume)) for name in files]
    return sorted(names)


def bring(
    cluster: Cluster, url: str, *options: str, name: str, sha256: str, **variables: str
) -> dict[str, Any]:
    """Submit, and make sure that exactly this file comes of it, which is removed then; gives the job's record."""
    done = cluster.run("submit", url, "--json", *options, **variables)
    assert done.returncode == 0, done.stderr + done.stdout
    names = published(cluster.volume)
    assert names == [name], names
    file = cluster.volume / name
    assert sha256_of(file) == sha256
    wait_until_clean(cluster.volume)
    record: dict[str, Any] = json.loads(done.stdout)
    assert record["path"] == str(file)
    assert record["size_bytes"] == record["bytes_done"] == file.stat().st_size, record
    assert record["chunks_done"] == record["chunks_count"], record
    file.unlink()
    return record


def refused(cluster: Cluster, url: str, *options: str, exit_code: int = 3, **variables: str) -> Refusal:
    """Submit, and make sure that it fails with this exit code, says one error, and leaves nothing."""
    done = cluster.run("submit", url, "--json", *options, **variables)
    assert done.returncode == exit_code, done.stderr + done.stdout
    sentence = told_error(done.stderr)
    names = published(cluster.volume)
    assert names == [], names
    record = json.loads(done.stdout)
    # A job that failed midway may keep what it has; who gives it up has it removed.
    with cluster.orchestrator() as orchestrator:
        assert orchestrator.cancel(record["job_id"])
    wait_until_clean(cluster.volume)
    return Refusal(record["error"]["code"], sentence)
