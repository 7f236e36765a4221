"""Answers of workers to questions that are about no state: one is left under a name, and taken once."""

from __future__ import annotations

from tasks.records.client import Client

#: How long an answer is kept that nobody takes.
_ANSWER_SECONDS = 600


class Answers(Client):
    """What workers answer."""

    def answer(self, token: str, text: str) -> None:
        """Leave an answer for whoever asked under this name."""
        key = f"{self.prefix}answer:{token}"
        with self.translated(), self._redis.pipeline(transaction=True) as pipe:
            pipe.lpush(key, text)
            pipe.expire(key, _ANSWER_SECONDS)
            pipe.execute()

    def take_answer(self, token: str, seconds: float) -> str | None:
        """The answer under this name, if it comes within so many seconds."""
        with self.translated():
            found = self._redis.blpop([f"{self.prefix}answer:{token}"], timeout=seconds)
        return found[1] if found else None
