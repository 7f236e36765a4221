"""The cluster that a client works with: which Redis that is, what rests in it, and what is sent through it.

With a Redis in the settings, it is the cluster behind that. Else an `orchestrator up` of this user, if one runs.
Else a private Redis and a worker, started for as long as the client lives.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from orchestrator import rendezvous
from orchestrator.stack import PrivateStack
from tasks.app import PLAN_MANY_TASK, QUEUES, lists_for, make_app
from tasks.host import records_of
from tasks.messages import sending_errors, shown_as, urgency
from tasks.records import RedisError
from tasks.records.queues import MESSAGE_PRIORITIES
from tasks.sealing import new_key
from tasks.settings import Settings
from tasks.transfer.http_source import check_ways_out

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from celery import Celery

    from tasks.records import NewJob, Records

#: How long a reply of a worker may take.
_PING_SECONDS = 1.0


class Cluster:
    """One Redis and the workers behind it; a context manager."""

    def __init__(self, **overrides: Any) -> None:
        """Take the settings of this process, with `overrides` of single ones, such as ``redis_url=...``.

        Raises:
            RedisError: Redis cannot be reached, refused the password, or is too old.
        """
        settings = Settings(**overrides)
        self._stack: PrivateStack | None = None
        self._up: rendezvous.Running | None = None
        if settings.redis_url is None:
            settings = self._find_or_start(settings, overrides)
        self.settings = settings
        self.records: Records = records_of(settings)
        self._app: Celery | None = None
        try:
            self.records.check()
        except BaseException:
            self.close()
            raise

    @property
    def is_embedded(self) -> bool:
        """Whether the Redis and the worker are its own and end with it."""
        return self._stack is not None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give connections back; an embedded Redis and worker end."""
        self.records.close()
        if self._app is not None:
            self._app.close()
        if self._stack is not None:
            self._stack.close()
            self._stack = None

    def check_stack(self) -> None:
        """Raise `RedisError` if the embedded Redis and worker, or an `orchestrator up`, ended under us."""
        if self._stack is not None and not self._stack.is_running:
            raise RedisError("The private Redis or its worker ended.")
        # Its Redis does not come back: another one has a Redis of its own.
        if self._up is not None and rendezvous.find() != self._up:
            raise RedisError(
                "`orchestrator up` ended. What came is kept: start it again, and run the same command again to go on."
            )

    def unserved_queues(self) -> set[str]:
        """The queues that a job needs and no worker serves; takes a second. `RedisError` if it cannot be asked."""
        with sending_errors(), self.records.translated():
            replies = self._celery().control.inspect(timeout=_PING_SECONDS).active_queues() or {}
        served = {queue["name"] for queues in replies.values() for queue in queues}
        return set(QUEUES) - served

    def send(
        self, task: str, subject: str | Sequence[str], shown: str, *more: str | float, **options: Any
    ) -> None:
        """Send a message to the workers.

        Args:
            task: its name.
            subject: the job, or the jobs, that it is about.
            shown: what Flower shows of its arguments.
            more: arguments besides.
            options: Celery's, such as a priority.

        Raises:
            RedisError: it could not be sent.
        """
        with sending_errors():
            self._celery().send_task(
                task, args=(subject, *more), ignore_result=True, **options, **shown_as(shown)
            )

    def send_plans(self, jobs: Sequence[NewJob], jobs_a_message: int) -> None:
        """Have small jobs of one priority planned, several for each message; `RedisError` if that cannot be sent."""
        # All into one list, behind as few of others as can be: workers take from each list in turn.
        lists = lists_for(-(-len(jobs) // jobs_a_message))
        queue = random.choice(self.records.shortest(lists, MESSAGE_PRIORITIES)) if jobs else None
        for begin in range(0, len(jobs), jobs_a_message):
            some = jobs[begin : begin + jobs_a_message]
            self.send(
                PLAN_MANY_TASK,
                [job.job_id for job in some],
                f"{some[0].url}, {len(some)} jobs",
                queue=queue,
                **urgency(some[0].spec.priority),
            )

    def _celery(self) -> Celery:
        if self._app is None:
            self._app = make_app(self.settings)
        return self._app

    def _find_or_start(self, settings: Settings, overrides: Mapping[str, Any]) -> Settings:
        running = rendezvous.find()
        wants_other_volume = "volume" in settings.model_fields_set and (
            running is not None and settings.volume.absolute() != running.volume
        )
        found: dict[str, Any]
        if running is not None and not wants_other_volume:
            self._up = running
            found = running.model_dump(include={"redis_url", "volume", "secret_key"})
        else:
            found = self._start(settings, overrides)
        return Settings(**{**overrides, **found})

    def _start(self, settings: Settings, overrides: Mapping[str, Any]) -> dict[str, str]:
        """Start a stack; the settings that lead to it."""
        check_ways_out(settings.source_address, settings.interface)
        volume = str(settings.volume.absolute())
        key = settings.secret_key.get_secret_value() if settings.secret_key else new_key()
        given = {
            name: ",".join(value) if isinstance(value, tuple | list) else str(value)
            for name, value in overrides.items()
            if value is not None
        }
        self._stack = PrivateStack({**given, "volume": volume, "secret_key": key})
        try:
            self._stack.wait_until_ready()
        except BaseException:
            self._stack.close()
            raise
        return {"redis_url": self._stack.redis_url, "volume": volume, "secret_key": key}
