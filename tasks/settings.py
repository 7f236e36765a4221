"""Settings: environment variables ``ORCHESTRATOR_...`` first, then the settings file, then the defaults.

Each field is one variable; its description is what ``orchestrator settings`` shows.
"""

from __future__ import annotations

import functools
import ipaddress
import os
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, SecretStr, field_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from tasks.transfer.rates import RateText  # noqa: TC001  (pydantic reads it)

ENV_PREFIX = "ORCHESTRATOR_"
#: Connections to one origin, where nobody says: so many over all workers; for each host so many, where that is more.
#: With one, a host's link rests between two chunks.
CONNECTIONS, CONNECTIONS_EACH_HOST = 16, 2
_REDIS_SCHEMES = ("redis://", "rediss://", "redis+socket://")


def settings_file() -> Path:
    """Where the settings file is: ``ORCHESTRATOR_CONFIG``, else ``~/.config/manyhands/orchestrator.toml``.

    Never the present folder: downloads go there, under names that servers choose, and a planted file could have
    the next job, with its credentials, sent to somebody else's Redis.
    """
    named = os.environ.get(f"{ENV_PREFIX}CONFIG")
    if named:
        return Path(named)
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "manyhands" / "orchestrator.toml"


class OriginLimits(BaseModel):
    """What is kept to with one origin; in ``orchestrator.toml`` as ``[origins."https://host:port"]``."""

    connections: int | None = Field(None, ge=1)


class Settings(BaseSettings):
    """All settings, validated."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, extra="forbid", frozen=True, env_ignore_empty=True, allow_inf_nan=False
    )

    redis_url: SecretStr | None = Field(
        None, description="redis://, rediss:// or redis+socket://; not set: a private Redis is started"
    )
    volume: Path = Field(Path(), description="the directory that all workers share")
    secret_key: SecretStr | None = Field(
        None, description="key that seals URLs, headers and credentials (openssl rand -base64 32)"
    )
    key_prefix: str = Field("manyhands:", description="what every key in Redis begins with")

    host_name: str | None = Field(
        None, min_length=1, max_length=255, pattern=r"^[^/\s]+$", description="what records call this host"
    )
    concurrency: int = Field(16, ge=1, le=1024, description="chunks that one worker fetches at a time")
    processes: int | None = Field(
        None, ge=1, le=256, description="processes of one worker that fetch chunks; not set: one a processor"
    )
    connections: int | None = Field(
        None,
        ge=1,
        le=1024,
        description=(
            "connections to one origin, over all workers and jobs, for jobs that do not say; "
            f"not set: {CONNECTIONS}, or {CONNECTIONS_EACH_HOST} for each host if that is more"
        ),
    )
    origins: dict[str, OriginLimits] = Field(
        {}, description="limits of single origins, by scheme, host and port"
    )
    connect_timeout_seconds: float = Field(10.0, gt=0, le=600, description="one connect")
    read_timeout_seconds: float = Field(30.0, gt=0, le=3600, description="one read")
    low_speed_bytes_per_second: float = Field(
        1000.0, ge=0, description="a connection slower than this is dropped; 0: never"
    )
    low_speed_seconds: float = Field(30.0, gt=0, le=3600, description="the window of the low-speed limit")
    time_slice_seconds: float = Field(
        60.0, gt=0, le=300, description="how long a chunk task may hold a worker's slot"
    )

    max_rate: RateText = Field(
        None,
        description="bytes a second that all workers of this host fetch together, such as 50M, or a timetable such "
        "as '08:00 50M, 18:00 off' by this host's clock; not set or 0: as many as come",
    )
    source_address: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="addresses of this host that connections to origins and proxies leave from, separated by commas "
        "and used in turn; not set: as the system chooses",
    )
    interface: str | None = Field(
        None,
        min_length=1,
        max_length=15,
        pattern=r"^[^/\s]+$",
        description="network interface of this host that these connections leave from",
    )

    fruitless_attempts: int = Field(8, ge=1, description="attempts in a row without a new byte")
    probe_attempts: int = Field(3, ge=1, description="attempts at the first request of a job")
    worker_deaths: int = Field(
        5, ge=2, description="workers that die in a row at one part, without a new byte, before its job fails"
    )
    backoff_cap_seconds: float = Field(30.0, gt=0, le=60, description="the longest backoff")
    max_wait_seconds: float = Field(120.0, ge=0, le=120, description="the longest Retry-After that is obeyed")

    sweep_seconds: float = Field(
        5.0, gt=0, le=3600, description="how often a worker looks for jobs that stand still"
    )
    stall_seconds: float = Field(
        10.0, ge=1, le=3600, description="a job at which nobody is for so long is sent again"
    )

    redis_timeout_seconds: float = Field(10.0, gt=0, le=300, description="one call of Redis")
    visibility_timeout_seconds: int = Field(
        900, ge=120, le=900, description="after this a message that no worker acknowledged is sent again"
    )
    longest_job_seconds: int = Field(
        30 * 24 * 3600,
        ge=3600,
        description="how long Celery keeps the count of chunks that a merge waits for",
    )
    record_age_seconds: int = Field(
        7 * 24 * 3600, ge=60, description="how long the record of an ended job is kept"
    )

    @field_validator("source_address", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return [each for each in value.replace(",", " ").split() if each] if isinstance(value, str) else value

    @field_validator("source_address")
    @classmethod
    def _known_addresses(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            try:
                ipaddress.ip_address(value)
            except ValueError:
                raise ValueError(f"{value[:60]!r} is not an IPv4 or IPv6 address") from None
        return values

    @field_validator("redis_url")
    @classmethod
    def _known_scheme(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not value.get_secret_value().startswith(_REDIS_SCHEMES):
            # Without the value: it may carry a password.
            raise ValueError(f"must begin with one of {', '.join(_REDIS_SCHEMES)}")
        try:
            urlsplit(value.get_secret_value() if value else "").port  # noqa: B018  (it is read to be checked)
        except ValueError:
            raise ValueError("has a port that is no number, or a host that makes no sense") from None
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, then the environment, then the file; no .env file is read behind the user's back."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, settings_file())


@functools.cache
def settings() -> Settings:
    """The settings of this process, read once."""
    return Settings()


def places() -> dict[str, str]:
    """Where each setting came from: the variable's name, the file's name, or ``default``."""
    from_env = EnvSettingsSource(Settings)()
    from_file = TomlConfigSettingsSource(Settings, settings_file())()
    found = {}
    for name in Settings.model_fields:
        if name in from_env:
            found[name] = f"{ENV_PREFIX}{name.upper()}"
        elif name in from_file:
            found[name] = str(settings_file())
        else:
            found[name] = "default"
    return found
