"""Options that are settings: they go into the environment, where this process and those that it starts find them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    import click

_GIVEN = "orchestrator.settings"


def sets(name: str) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """What an option does whose value is that of the setting of this name."""

    def callback(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
        if value is not None:
            os.environ[f"ORCHESTRATOR_{name}"] = str(value)
            ctx.meta.setdefault(_GIVEN, []).append(param.opts[0])
        return value

    return callback


def given(ctx: click.Context) -> list[str]:
    """The options that were given and are settings."""
    return list(ctx.meta.get(_GIVEN, []))
