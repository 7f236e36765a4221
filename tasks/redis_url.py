"""What a URL of Redis says: ours, as it is in the settings."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

SOCKET_SCHEME = "redis+socket://"
SENTINEL_SCHEMES = ("sentinel://", "sentinels://")
TLS_SCHEMES = ("rediss://", "sentinels://")
_SCHEMES = ("redis://", "rediss://", SOCKET_SCHEME, *SENTINEL_SCHEMES)
_SENTINEL_PORT = 26379

#: Options for TLS that a rediss:// URL may have, as it had to before there were settings for them, and their values.
_VERIFIES = {"none": "none", "optional": "required", "required": "required"}
_TRUTHS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """One Redis, or the Sentinels that know it."""

    plain: str  #: without options for TLS; of Sentinels, Celery's form of it
    sentinels: tuple[tuple[str, int], ...]  #: host and port of each; none: Redis itself is named
    database: int
    username: str | None
    password: str | None
    uses_tls: bool
    tls_options: Mapping[str, str | bool]  #: redis-py's names and values

    @property
    def is_socket(self) -> bool:
        """Whether it is a Unix socket of this host."""
        return self.plain.startswith(SOCKET_SCHEME)

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read a URL.

        Raises:
            ValueError: it makes no sense. The message does not repeat it: it may carry a password.
        """
        if not url.startswith(_SCHEMES):
            raise ValueError(f"must begin with one of {', '.join(_SCHEMES)}")
        if url.startswith(SENTINEL_SCHEMES):
            return cls._parse_sentinels(url)
        try:
            parts = urlsplit(url)
            parts.port  # noqa: B018  (it is read to be checked)
        except ValueError:
            raise ValueError("has a port that is no number, or a host that makes no sense") from None
        uses_tls = url.startswith(TLS_SCHEMES)
        query = parse_qsl(parts.query)
        options = _tls_options(query)
        if options and not uses_tls:
            raise ValueError("has options for TLS; then it must begin with rediss://")
        if options:
            kept = urlencode([(name, value) for name, value in query if not name.startswith("ssl_")])
            url = parts._replace(query=kept).geturl()
        return cls(
            # kombu takes what is behind a semicolon for another URL.
            plain=url.replace(";", "%3B"),
            sentinels=(),
            database=_database(url, parts.path, dict(query)),
            username=unquote(parts.username or "") or None,
            password=unquote(parts.password or "") or None,
            uses_tls=uses_tls,
            tls_options=options,
        )

    @classmethod
    def _parse_sentinels(cls, url: str) -> Self:
        if url.count("://") > 1:
            raise ValueError(
                "must be one list with commas, such as sentinel://:password@host1:26379,host2:26379/0"
            )
        scheme, _, rest = url.replace(";", "%3B").partition("://")
        user, at, rest = rest.rpartition("@")
        found = re.fullmatch(r"([^/?#]+)/?(\d*)", rest)
        if not found:
            raise ValueError("must be a list of hosts, a slash and the number of a database, without options")
        name, _, password = user.partition(":")
        hosts = tuple(_host_and_port(host) for host in found[1].split(","))
        database = int(found[2] or 0)
        return cls(
            plain=";".join(f"sentinel://{user}{at}{_joined(*host)}/{database}" for host in hosts),
            sentinels=hosts,
            database=database,
            username=unquote(name) or None,
            password=unquote(password) or None,
            uses_tls=scheme == "sentinels",
            tls_options={},
        )


def without_password(url: str) -> str:
    """A Redis URL as it may be shown, whether it makes sense or not."""
    # Up to the last @, wherever it is: redis-py takes a password with an @ in it.
    return re.sub(r"//.*@", "//", url, flags=re.DOTALL).partition("?")[0]


def _database(url: str, path: str, query: Mapping[str, str]) -> int:
    is_socket = url.startswith(SOCKET_SCHEME)
    number = query.get("virtual_host", "") if is_socket else path.strip("/")
    if number and not number.isdecimal():
        raise ValueError("has something behind the host that is not the number of a database")
    return int(number or 0)


def _host_and_port(text: str) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{text}")
        port = parts.port
    except ValueError:
        raise ValueError("has a port that is no number, or a host that makes no sense") from None
    if not parts.hostname:
        raise ValueError("has an empty host in its list of Sentinels")
    return parts.hostname, _SENTINEL_PORT if port is None else port


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _tls_options(query: list[tuple[str, str]]) -> dict[str, str | bool]:
    """The options for TLS in a query, checked: Celery, kombu and redis-py each read others, and other spellings."""
    options: dict[str, str | bool] = {}
    for name, value in query:
        verifies = _VERIFIES.get(value.lower().removeprefix("cert_"))
        if name == "ssl_cert_reqs" and verifies:
            options[name] = verifies
        elif name == "ssl_check_hostname" and value.lower() in _TRUTHS:
            options[name] = _TRUTHS[value.lower()]
        elif name in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"):
            options[name] = value
        elif name.startswith("ssl_"):
            raise ValueError(f"has an option {name} that is not known, or makes no sense")
    return options
