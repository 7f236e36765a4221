"""The host: what one worker process works with. Made once, from the settings."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import os
import secrets
import socket
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.completions import Completions
from tasks.connections import Connections
from tasks.rates import RateLimits
from tasks.records import Progress, Records, RedisError
from tasks.records.server import RedisServer
from tasks.sealing import unseal
from tasks.settings import Settings, settings
from tasks.transfer.http_source import HttpLimits, Outgoing, Source, ways_out
from tasks.transfer.retry import RetryPolicy
from tasks.transfer.volume import Volume
from tasks.watch import Watch
from tasks.watched import LowSpeed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tasks.transfer.attempt import Attempt
    from tasks.transfer.manifest import JobSpec, Priority, Span

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Host:
    """One worker process on one host."""

    name: str  #: the host's name, as receipts and records show it
    settings: Settings
    records: Records
    volume: Volume
    watch: Watch
    policy: RetryPolicy

    @functools.cached_property
    def connections(self) -> Connections:
        """What may be opened to origins."""
        return Connections(self.records, self.settings, self.watch)

    @functools.cached_property
    def process_name(self) -> str:
        """A name that no other worker process has or had."""
        return f"{self.name}/{new_attempt_name()}"

    @functools.cached_property
    def completions(self) -> Completions:
        """What this process has completed of late."""
        return Completions()

    @functools.cached_property
    def cluster(self) -> str:
        """What manifests call the cluster of this process; `RedisError` if that is not known yet.

        It stays the same when Redis is emptied: so the cluster's jobs are known by their manifests.
        """
        return self.records.join(secrets.token_hex(8))

    @functools.cached_property
    def _cluster_names(self) -> set[str]:
        return {self.cluster}

    def cluster_names(self) -> tuple[set[str], bool]:
        """All names of the cluster; and whether Redis was emptied since they were asked for.

        A process remembers all that it has heard of: when Redis is emptied again, who had the others may have died.

        Raises:
            RedisError: they cannot be asked for.
        """
        names, was_emptied = self.records.names(self._cluster_names)
        self._cluster_names.update(names)
        return set(self._cluster_names), was_emptied

    @contextlib.contextmanager
    def at_work(self, job_id: str) -> Iterator[None]:
        """Within, others see that somebody plans or merges a job; without Redis nobody sees anything."""
        with contextlib.suppress(RedisError):
            self.records.begun(job_id)
        try:
            with self.watch.over_job(job_id):
                yield
        finally:
            # Not of a process that dies: then somebody else looks after the job.
            with contextlib.suppress(RedisError):
                self.records.ended(job_id)

    def source(self, sealed_request: str) -> Source:
        """The file that a sealed request names; `JobUnreadable` if the key is not the submitter's."""
        return Source(unseal(sealed_request, self.settings.secret_key), self._limits)

    def checksums_source(self, sealed_request: str) -> Source | None:
        """The list of checksums that goes with it, if one does; errors as for `source`."""
        request = unseal(sealed_request, self.settings.secret_key).checksums
        return None if request is None else Source(request, self._limits)

    @property
    def _limits(self) -> HttpLimits:
        return HttpLimits(
            connect_timeout_seconds=self.settings.connect_timeout_seconds,
            read_timeout_seconds=self.settings.read_timeout_seconds,
            ways_out=self._ways_out,
        )

    @functools.cached_property
    def _ways_out(self) -> tuple[Outgoing, ...]:
        return ways_out(self.settings.source_address, self.settings.interface)

    def policy_for(self, spec: JobSpec | None) -> RetryPolicy:
        """The retry policy of a job."""
        if spec is None or spec.max_wait_seconds is None:
            return self.policy
        return dataclasses.replace(self.policy, max_wait_seconds=spec.max_wait_seconds)

    def new_attempt(
        self,
        job_id: str,
        span: Span | None,
        *,
        generation: int,
        origin: str,
        priority: Priority,
        name: str | None = None,
    ) -> tuple[Attempt, Callable[[], Progress]]:
        """An attempt at a span of a chunk, and what to report of it at any moment.

        Args:
            job_id: whose chunk.
            span: what to bring; None: it looks for something.
            generation: the sending that the attempt belongs to.
            origin: whose connection it needs.
            priority: of the job.
            name: of an attempt that has ended, whose lease this one goes on with; None: it needs one of its own.
        """
        attempt = self.watch.new_attempt(name or new_attempt_name())
        return attempt, lambda: Progress(
            job_id=job_id,
            span=span,
            generation=generation,
            done_bytes=attempt.done_bytes if attempt.has_begun else None,
            bytes_per_second=attempt.bytes_per_second,
            holder=f"{self.name}/{attempt.name}",
            origin=origin,
            rank=priority.rank,
        )


def new_attempt_name() -> str:
    """A name that no other attempt has or had."""
    return f"{os.getpid():x}-{secrets.token_hex(6)}"


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
    name = values.host_name or socket.gethostname()
    limits = RateLimits(records, process=new_attempt_name(), host_name=name, host_rate=values.max_rate)
    low_speed = LowSpeed(values.low_speed_bytes_per_second, values.low_speed_seconds)
    return Host(
        name=name,
        settings=values,
        records=records,
        volume=Volume(values.volume.absolute()),
        watch=Watch(records, low_speed, limits=limits),
        policy=RetryPolicy(
            fruitless_attempts=values.fruitless_attempts,
            backoff_cap_seconds=values.backoff_cap_seconds,
            max_wait_seconds=values.max_wait_seconds,
        ),
    )


def records_of(values: Settings) -> Records:
    """The records on the Redis of these settings, which must name one."""
    return Records(RedisServer.of(values), prefix=values.key_prefix, age_seconds=values.record_age_seconds)
