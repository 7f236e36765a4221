"""What one attempt reports of itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.transfer.manifest import Span


@dataclass(frozen=True, slots=True)
class Progress:
    """What one attempt reports at intervals."""

    job_id: str
    span: Span | None  #: what it fetches; None: it looks for something
    generation: int  #: of the sending that the attempt belongs to
    done_bytes: int | None  #: of the span; None: it is not known yet what earlier attempts left
    bytes_per_second: float | None  #: of late; None: it is not known yet
    holder: str  #: ``<host>/<attempt>``, whose lease is renewed
    origin: str  #: scheme, host and port, whose connection it is
    rank: int = 1  #: of the job's priority; 0 is the highest
