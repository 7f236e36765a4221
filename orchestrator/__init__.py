"""The submit side: submit, watch and steer jobs.

`Orchestrator` is where to begin; the readme has an example.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.access import Access
    from orchestrator.client import Job, JobEndedBadly, Orchestrator, StillRunning

__all__ = ["Access", "Job", "JobEndedBadly", "Orchestrator", "StillRunning"]


def __getattr__(name: str) -> object:
    """Load the client when it is asked for: Celery is half a second that ``orchestrator --help`` need not pay."""
    if name in __all__:
        from orchestrator import client

        return getattr(client, name)
    raise AttributeError(name)
