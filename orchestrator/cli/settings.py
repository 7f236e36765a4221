"""``orchestrator settings``."""

from __future__ import annotations

import json

import click
from pydantic import SecretStr

from orchestrator.cli import options
from tasks.records import without_password
from tasks.settings import ENV_PREFIX, Settings, places


@click.command()
@options.as_json
def settings(as_json: bool) -> None:
    """Show every setting, its value and where it came from; secrets are masked.

    \b
    Examples:
      orchestrator settings
      ORCHESTRATOR_CONCURRENCY=32 orchestrator settings --json
    """
    values, found_at = Settings(), places()
    rows = {
        f"{ENV_PREFIX}{name.upper()}": {
            "value": _masked(name, getattr(values, name)),
            "from": found_at[name],
            "meaning": field.description,
        }
        for name, field in Settings.model_fields.items()
    }
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    for variable, row in rows.items():
        value = "(not set)" if row["value"] is None else row["value"]
        click.echo(f"{variable} = {value}   [{row['from']}]\n    {row['meaning']}")


def _masked(name: str, value: object) -> str | int | float | None:
    if name == "redis_url" and isinstance(value, SecretStr):
        return without_password(value.get_secret_value())
    if isinstance(value, SecretStr):
        return "**********"
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or None
    return value if isinstance(value, int | float | None) else str(value)
