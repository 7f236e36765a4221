"""What can go wrong, grouped by what happens next.

    TransferError
    ├── TransientError       try this chunk again
    │   ├── OriginUnreachable
    │   ├── OriginBusy
    │   ├── ResponseTruncated
    │   ├── TooSlow
    │   └── ManifestStale
    ├── PlanVoidError        the file or the server is not what the plan was made for
    │   ├── SourceChanged
    │   └── RangesRefused
    └── PermanentError       a person must act
        ├── OriginError      SourceRefused, ProxyRefused, BadResponse, BadCertificate,
        │                    RedirectRefused, NoProgress, TooLarge, DigestMismatch
        ├── VolumeError      VolumeMissing, VolumeReadOnly, VolumeFull, VolumeFailed,
        │                    FileUnreadable, DestinationExists, DestinationIsFolder, DestinationBlocked, DestinationBusy
        ├── JobUnreadable, JobTimedOut, SentInVain, WorkersDied
        └── UsageError       BadURL, BadName, BadOption, SecretKeyMissing

Arguments are positional and JSON-able: Celery rebuilds an error as ``cls(*args)``.
Sentences never carry a URL's query or user; callers pass what `redact` returned.
"""

from __future__ import annotations

from tasks.transfer.errors.base import Side, TransferError, origin_of, redact, side_of
from tasks.transfer.errors.origin import (
    BadCertificate,
    BadResponse,
    DigestMismatch,
    NoProgress,
    OriginError,
    ProxyRefused,
    RedirectRefused,
    SourceRefused,
    TooLarge,
)
from tasks.transfer.errors.permanent import (
    BadName,
    BadOption,
    BadURL,
    JobTimedOut,
    JobUnreadable,
    PermanentError,
    SecretKeyMissing,
    SentInVain,
    UsageError,
    WorkersDied,
)
from tasks.transfer.errors.transient import (
    ManifestStale,
    OriginBusy,
    OriginUnreachable,
    ResponseTruncated,
    TooSlow,
    TransientError,
)
from tasks.transfer.errors.void import PlanVoidError, RangesRefused, SourceChanged
from tasks.transfer.errors.volume import (
    DestinationBlocked,
    DestinationBusy,
    DestinationExists,
    DestinationIsFolder,
    FileUnreadable,
    VolumeError,
    VolumeFailed,
    VolumeFull,
    VolumeMissing,
    VolumeReadOnly,
)

__all__ = [
    "BadCertificate",
    "BadName",
    "BadOption",
    "BadResponse",
    "BadURL",
    "DestinationBlocked",
    "DestinationBusy",
    "DestinationExists",
    "DestinationIsFolder",
    "DigestMismatch",
    "FileUnreadable",
    "JobTimedOut",
    "JobUnreadable",
    "ManifestStale",
    "NoProgress",
    "OriginBusy",
    "OriginError",
    "OriginUnreachable",
    "PermanentError",
    "PlanVoidError",
    "ProxyRefused",
    "RangesRefused",
    "RedirectRefused",
    "ResponseTruncated",
    "SecretKeyMissing",
    "SentInVain",
    "Side",
    "SourceChanged",
    "SourceRefused",
    "TooLarge",
    "TooSlow",
    "TransferError",
    "TransientError",
    "UsageError",
    "VolumeError",
    "VolumeFailed",
    "VolumeFull",
    "VolumeMissing",
    "VolumeReadOnly",
    "WorkersDied",
    "origin_of",
    "redact",
    "side_of",
]
