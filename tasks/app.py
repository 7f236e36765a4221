"""The Celery app. Each setting that is not a matter of taste has its reason beside it."""

from __future__ import annotations

import importlib
import logging
import time
from typing import TYPE_CHECKING, Any

from celery import Celery
from celery.exceptions import Reject
from celery.loaders.app import AppLoader
from celery.signals import before_task_publish, celeryd_after_setup

from tasks.messages import urgency
from tasks.records.queues import CHUNKS_LISTS, MESSAGE_PRIORITIES, SENT_AT
from tasks.records.server import RedisServer
from tasks.settings import settings
from tasks.transfer.errors import BadOption
from tasks.transfer.manifest import Priority

if TYPE_CHECKING:
    from types import ModuleType

    from tasks.settings import Settings

CONTROL_QUEUE = "control"
MERGE_QUEUE = "merge"
CHUNKS_QUEUE = "chunks"
QUEUES = (CONTROL_QUEUE, MERGE_QUEUE, CHUNKS_QUEUE)

_RESULT_SECONDS = 3600
#: How long one process may be sending again what was not acknowledged; thousands of messages take a few.
_RESTORE_SECONDS = 30
#: Those that never have many messages of one job.
SHORT_LISTS = CHUNKS_LISTS[-2:]
#: So many messages of one job at most are few.
FEW_MESSAGES_COUNT = 64


def lists_for(messages_count: int) -> tuple[str, ...]:
    """The lists that so many messages may be put in."""
    return CHUNKS_LISTS if messages_count <= FEW_MESSAGES_COUNT else CHUNKS_LISTS[: -len(SHORT_LISTS)]


PLAN_TASK = "orchestrator.plan"
PLAN_MANY_TASK = "orchestrator.plan_many"
FETCH_TASK = "tasks.fetch_chunk"
HELP_TASK = "tasks.help"
MERGE_TASK = "tasks.merge_parts"
REMOVE_TASK = "tasks.remove_job"
VERIFY_TASK = "tasks.verify_file"
PRUNE_TASK = "tasks.prune_volume"
RECOVER_TASK = "tasks.recover_jobs"
_OUR_TASKS = frozenset(
    {
        PLAN_TASK,
        PLAN_MANY_TASK,
        FETCH_TASK,
        HELP_TASK,
        MERGE_TASK,
        REMOVE_TASK,
        VERIFY_TASK,
        PRUNE_TASK,
        RECOVER_TASK,
    }
)


class _Loader(AppLoader):
    """Imports modules as Python does."""

    def import_from_cwd(self, module: str, imp: object = None, package: str | None = None) -> ModuleType:  # noqa: ARG002
        # Celery's looks in the present folder first. Downloads go there, under names that servers choose.
        return importlib.import_module(module, package=package)


def make_app(settings: Settings) -> Celery:
    """A Celery app on the Redis of these settings.

    Raises:
        BadOption: the settings name no Redis.
    """
    if settings.redis_url is None:
        raise BadOption("ORCHESTRATOR_REDIS_URL is not set: a worker must be told which Redis it serves.")
    server = RedisServer.of(settings)
    modules = [
        "tasks.fetch",
        "tasks.help",
        "tasks.merge",
        "tasks.verify",
        "tasks.prune_task",
        "tasks.recover",
        "tasks.sweep",
        "orchestrator.plan",
    ]
    app = Celery("manyhands", include=modules, loader=_Loader)
    app.conf.update(
        **server.for_broker(),
        **server.for_results(),
        **_serialization(),
        **_delivery(settings, server),
        **_results(settings, server),
        **_worker(settings),
    )
    logging.getLogger("celery.app.trace").addFilter(_tell_plainly)
    logging.getLogger("celery.backends.base").addFilter(_tell_briefly)
    return app


@celeryd_after_setup.connect
def _serve_all_lists(instance: Any, **_: object) -> None:
    """Have a worker that serves the queue of chunks take from all of its lists."""
    queues = instance.app.amqp.queues
    if CHUNKS_QUEUE in queues.consume_from:
        for name in CHUNKS_LISTS:
            queues.select_add(name)


@before_task_publish.connect
def _say_when_sent(sender: Any, headers: dict[str, Any], **_: object) -> None:
    """Have messages say when they were sent, which Celery's own do not: how old a queue is, is told by that."""
    # The process may have another app of its user's.
    if sender in _OUR_TASKS:
        headers[SENT_AT] = time.time()


def _tell_plainly(record: logging.LogRecord) -> bool:
    """A filter: chunks go back to the queue by design, and Celery would warn of each with a traceback."""
    if record.exc_info and isinstance(record.exc_info[1], Reject):
        record.exc_info = None
        record.levelno, record.levelname = logging.INFO, logging.getLevelName(logging.INFO)
    return True


def _tell_briefly(record: logging.LogRecord) -> bool:
    """A filter: of each attempt to store a result while Redis is away, Celery would show a traceback."""
    if record.levelno == logging.WARNING:
        record.exc_info = None
    return True


def _serialization() -> dict[str, object]:
    # Whoever can write to Redis could run code of theirs in every worker if pickle were accepted.
    return {"task_serializer": "json", "result_serializer": "json", "accept_content": ["json"]}


def _delivery(settings: Settings, server: RedisServer) -> dict[str, object]:
    normal = urgency(Priority.NORMAL)
    return {
        "task_default_queue": CONTROL_QUEUE,
        "task_routes": {
            # With a priority: a message without one would go first.
            PLAN_TASK: {"queue": CONTROL_QUEUE, **normal},
            MERGE_TASK: {"queue": MERGE_QUEUE, **normal},
            REMOVE_TASK: {"queue": MERGE_QUEUE, **normal},
            VERIFY_TASK: {"queue": MERGE_QUEUE, **normal},
            # Not `control`: it may remove files for minutes, and a plan never waits for such.
            PRUNE_TASK: {"queue": MERGE_QUEUE, **normal},
            RECOVER_TASK: {"queue": CONTROL_QUEUE, **normal},
            # It fetches files: for as many at a time as chunks are, and not in the slots that others' plans need.
            PLAN_MANY_TASK: {"queue": CHUNKS_QUEUE, **normal},
            FETCH_TASK: {"queue": CHUNKS_QUEUE, **normal},
            HELP_TASK: {"queue": SHORT_LISTS[-1], **normal},
        },
        # Acknowledged when done, and again when the worker is lost: a killed worker's chunk is not lost.
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        # A worker must not hoard chunks that another could fetch now.
        "worker_prefetch_multiplier": 1,
        "worker_disable_prefetch": True,
        # It returns without counting for the chord: the merge would never run.
        "worker_deduplicate_successful_tasks": False,
        "broker_transport_options": {
            # After this a message that was not acknowledged is sent again. Every client of this Redis database
            # must agree on it: the shortest wins.
            "visibility_timeout": settings.visibility_timeout_seconds,
            # The defaults look for such messages every 100 s only.
            "unacked_restore_interval": 5,
            "unacked_restore_throttle": 1,
            # Who dies while it sends them again would keep everybody from it for the default of five minutes.
            "unacked_mutex_expire": _RESTORE_SECONDS,
            "global_keyprefix": settings.key_prefix,
            "priority_steps": list(MESSAGE_PRIORITIES),
            # Of the lists that have something, each in turn.
            "queue_order_strategy": "round_robin",
            **server.transport_options(),
            **_connection_options(settings),
        },
        # Otherwise a worker that starts before Redis does gives up.
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        # A Redis that has just become a replica answers with errors. The worker's process would end of one.
        "broker_channel_error_retry": True,
        # What is being fetched goes on while Redis is away.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
    }


def _results(settings: Settings, server: RedisServer) -> dict[str, object]:
    return {
        # While Redis is away, a finished chunk keeps storing its result before it counts for the chord.
        "result_backend_always_retry": True,
        # The defaults begin with a hundredth of a second and grow to ten: a log full of it, and slots that rest on.
        "result_backend_base_sleep_between_retries_ms": 500,
        "result_backend_max_sleep_between_retries_ms": 2000,
        # Extended results would store the arguments once more.
        "result_extended": False,
        # Nobody reads them: a chord has results of its own. For as long as a message may come a second time, and not
        # for as long as a job may take: those of a thousand chunks are half a MB.
        "result_expires": _RESULT_SECONDS,
        # The count of a chord whose job rests longer than this would be forgotten, and the merge never run.
        "result_chord_expires": settings.longest_job_seconds,
        "result_backend_transport_options": {
            "global_keyprefix": settings.key_prefix,
            **server.transport_options(),
        },
    }


def _worker(settings: Settings) -> dict[str, object]:
    return {
        # One process and about 1 MB a connection; a process for each would cost 50 MB.
        "worker_pool": "tasks.pool:ThreadPool",
        "worker_consumer": "tasks.consumer:EventGatheringConsumer",
        "worker_concurrency": settings.concurrency,
        "worker_send_task_events": True,  # Flower
        "task_send_sent_event": True,
        "worker_hijack_root_logger": False,
        # Celery would log all that is printed as warnings.
        "worker_redirect_stdouts": False,
    }


def _connection_options(settings: Settings) -> dict[str, object]:
    # Without a timeout a publish to a Redis that froze hangs for ever.
    return {
        "socket_timeout": settings.redis_timeout_seconds,
        "socket_connect_timeout": settings.redis_timeout_seconds,
        "socket_keepalive": True,
        "health_check_interval": 30,
    }


def __getattr__(name: str) -> Celery:
    """``tasks.app.app``, for ``celery -A tasks.app`` and the task modules; made when first asked for."""
    if name == "app":
        app = globals()["app"] = make_app(settings())
        return app
    raise AttributeError(name)
