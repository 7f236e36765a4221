"""Messages: what is shown of them, and how one comes back."""

from __future__ import annotations

from typing import Any

#: A message must come back before the visibility timeout; longer waits are made of several.
LONGEST_COUNTDOWN_SECONDS = 60.0


def shown_as(text: str) -> dict[str, Any]:
    """What Flower shows of a message in place of its arguments, which say little to a person."""
    return {"argsrepr": f"({text})", "kwargsrepr": "{}"}


def is_redelivered(task: Any) -> bool:
    """Whether the message of a running task was delivered before: that worker may have died, or may be at it."""
    return bool((task.request.delivery_info or {}).get("redelivered"))


def again(task: Any, args: tuple[Any, ...], seconds: float, cause: Exception | None = None) -> Exception:
    """Send the message of a running task again; what to raise then, which tells Celery that it was.

    Args:
        task: the task, bound.
        args: its arguments from now on.
        seconds: when it is to come back.
        cause: why.
    """
    # Celery does not hand the readable arguments on to a retry by itself.
    shown = {"argsrepr": task.request.argsrepr, "kwargsrepr": task.request.kwargsrepr}
    retry: Exception = task.retry(args=args, kwargs={}, exc=cause, countdown=seconds, throw=False, **shown)
    return retry
