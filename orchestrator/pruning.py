"""Removing what nobody will come back to: by a worker, which has the volume, or here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.asking import ask
from tasks.app import PRUNE_TASK
from tasks.prune import Pruned, prune
from tasks.transfer.volume import Volume

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from orchestrator.cluster import Cluster


def prune_by_worker(
    cluster: Cluster,
    *,
    older_than_seconds: float,
    is_dry_run: bool,
    timeout_seconds: float | None,
    on_look: Callable[[], object],
) -> Pruned:
    """Have a worker do it; see `tasks.prune.prune`.

    Args:
        cluster: whose records and volume.
        older_than_seconds: how long ago jobs must have ended.
        is_dry_run: only say what would be removed.
        timeout_seconds: how long to wait for it at most; None: as long as it takes.
        on_look: called about once a second.

    Raises:
        NotAnswered: it could not be done, or not in time.
        RedisError: Redis cannot be reached.
    """
    return ask(
        cluster,
        PRUNE_TASK,
        "prune",
        older_than_seconds,
        is_dry_run,
        kind=Pruned,
        late="No worker had pruned the volume",
        timeout_seconds=timeout_seconds,
        on_look=on_look,
    )


def prune_here(volume: Path, *, older_than_seconds: float, is_dry_run: bool) -> Pruned:
    """Do it on a volume of this host that no cluster is known of; `VolumeError` if it cannot be used."""
    return prune(Volume(volume), None, older_than_seconds=older_than_seconds, is_dry_run=is_dry_run)
