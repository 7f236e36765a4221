"""The Celery task that brings back jobs that Redis has lost, for somebody who knows that they are this cluster's."""

from __future__ import annotations

from tasks.answering import answer
from tasks.app import RECOVER_TASK, app
from tasks.host import host
from tasks.jobs import Recovered
from tasks.sweep import recover


@app.task(name=RECOVER_TASK, ignore_result=True)
def recover_jobs(subject: str, token: str) -> None:
    """Record anew, and send, the jobs on the volume that Redis does not know.

    Args:
        subject: what logs call it.
        token: names the question; whoever asked waits for the answer under this name.
    """
    here = host()
    answer(here, subject, token, lambda: Recovered(jobs=recover(here)))
