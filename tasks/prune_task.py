"""The Celery task that prunes, for somebody whose host may not have the volume."""

from __future__ import annotations

from tasks.answering import answer
from tasks.app import PRUNE_TASK, app
from tasks.host import host
from tasks.prune import prune


@app.task(name=PRUNE_TASK, ignore_result=True)
def prune_volume(subject: str, token: str, older_than_seconds: float, is_dry_run: bool) -> None:  # noqa: FBT001
    """Remove what nobody will come back to.

    Args:
        subject: what logs call it.
        token: names the question; whoever asked waits for the answer under this name.
        older_than_seconds: see `prune`.
        is_dry_run: see `prune`.
    """
    here = host()
    answer(
        here,
        subject,
        token,
        lambda: prune(
            here.volume, here.records, older_than_seconds=older_than_seconds, is_dry_run=is_dry_run
        ),
    )
