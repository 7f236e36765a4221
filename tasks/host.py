"""The host: what one worker process works with. Made once, from the settings."""

from __future__ import annotations

import functools
import os
import secrets
import socket
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.records import Progress, Records
from tasks.sealing import unseal
from tasks.settings import Settings, settings
from tasks.transfer.attempt import Attempt
from tasks.transfer.http_source import HttpLimits, Source
from tasks.transfer.retry import RetryPolicy
from tasks.transfer.volume import Volume
from tasks.watch import LowSpeed, Watch

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Host:
    """One worker process on one host."""

    name: str  #: the host's name, as receipts and records show it
    settings: Settings
    records: Records
    volume: Volume
    watch: Watch
    policy: RetryPolicy

    def source(self, sealed_request: str) -> Source:
        """The file that a sealed request names; `JobUnreadable` if the key is not the submitter's."""
        limits = HttpLimits(
            connect_timeout_seconds=self.settings.connect_timeout_seconds,
            read_timeout_seconds=self.settings.read_timeout_seconds,
        )
        return Source(unseal(sealed_request, self.settings.secret_key), limits)

    def new_attempt(self, job_id: str, number: int) -> tuple[Attempt, Callable[[], Progress]]:
        """An attempt at a chunk, and what to report of it at any moment."""
        attempt = Attempt(f"{os.getpid():x}-{secrets.token_hex(6)}")
        holder = f"{self.name}/{attempt.name}"
        return attempt, lambda: Progress(
            job_id, number, attempt.done_bytes if attempt.has_begun else None, holder
        )


_making = threading.Lock()


def host() -> Host:
    """This process's host."""
    # functools.cache alone lets threads that ask at the same time make one each, with a watch each.
    with _making:
        return _only_host()


@functools.cache
def _only_host() -> Host:
    values = settings()
    records = records_of(values)
    return Host(
        name=values.host_name or socket.gethostname(),
        settings=values,
        records=records,
        volume=Volume(values.volume.absolute()),
        watch=Watch(records, LowSpeed(values.low_speed_bytes_per_second, values.low_speed_seconds)),
        policy=RetryPolicy(
            fruitless_attempts=values.fruitless_attempts,
            backoff_cap_seconds=values.backoff_cap_seconds,
            max_wait_seconds=values.max_wait_seconds,
        ),
    )


def records_of(values: Settings) -> Records:
    """The records on the Redis of these settings, which must name one."""
    if values.redis_url is None:
        raise AssertionError("settings without a Redis have no records")
    return Records(
        values.redis_url,
        prefix=values.key_prefix,
        timeout_seconds=values.redis_timeout_seconds,
        age_seconds=values.record_age_seconds,
    )
