"""The submit side: submit, watch and steer jobs.

`Orchestrator` is where to begin; the readme has an example.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.access import Access
    from orchestrator.client import Orchestrator
    from orchestrator.ends import Ended, Refused
    from orchestrator.job import Job, JobEndedBadly, StillRunning
    from orchestrator.submission import Wanted

_HOMES = {
    "Access": "orchestrator.access",
    "Ended": "orchestrator.ends",
    "Job": "orchestrator.job",
    "JobEndedBadly": "orchestrator.job",
    "Orchestrator": "orchestrator.client",
    "Refused": "orchestrator.ends",
    "StillRunning": "orchestrator.job",
    "Wanted": "orchestrator.submission",
}
__all__ = ["Access", "Ended", "Job", "JobEndedBadly", "Orchestrator", "Refused", "StillRunning", "Wanted"]


def __getattr__(name: str) -> object:
    """Load the client when it is asked for: Celery is half a second that ``orchestrator --help`` need not pay."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(name)
