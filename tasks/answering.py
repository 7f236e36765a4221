"""Answering questions that are about no state: somebody waits under a token for what a worker finds out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery.exceptions import Reject

from tasks import outcomes
from tasks.jobs import Answer
from tasks.transfer.attempt import AttemptStopped

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic import BaseModel

    from tasks.host import Host


def answer(host: Host, subject: str, token: str, find_out: Callable[[], BaseModel]) -> None:
    """Answer a question, with an error if that is what comes of it.

    Args:
        host: where the answer is left.
        subject: what logs call it.
        token: names the question; whoever asked waits for the answer under this name.
        find_out: makes the answer.

    Raises:
        Reject: this worker goes away: another one answers.
    """
    try:
        told: Answer[BaseModel] = Answer(value=find_out())
    except AttemptStopped as stopped:
        raise Reject(stopped.reason, requeue=True) from None
    except Exception as error:  # noqa: BLE001  (whoever asked has to be told, whatever happened)
        told = Answer(error=outcomes.shown(subject, error))
    host.records.answer(token, told.model_dump_json())
