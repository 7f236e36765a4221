"""Celery's pool of threads, of which no slot is lost."""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING, Any

from billiard.einfo import ExceptionInfo
from celery.concurrency.thread import TaskPool
from celery.exceptions import Reject

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)


class ThreadPool(TaskPool):
    """Gives a message back whose task was run and whose result could not be told."""

    def on_apply(self, target: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Have a thread run a task."""
        return super().on_apply(functools.partial(_run, target), *args, **options)


def _run(target: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Run a task as Celery does; what it returns is how that ended, the result, and the seconds."""
    try:
        return target(*args, **options)
    except Exception as error:  # noqa: BLE001  (told: its kind; its text may repeat what Redis was sent)
        # Redis refused the result, and the failure that Celery made of that: it is full, or cannot save. Nobody would
        # hear of the task's end, and its slot stay taken for as long as the process lives.
        logger.warning("result not told, message given back cause=%s", type(error).__name__)
        rejected = Reject("its result could not be told", requeue=True)
        return 1, ExceptionInfo((Reject, rejected, error.__traceback__)), 0.0
