"""How to connect to Redis, for all who do: Celery's broker and result backend, Flower, and redis-py."""

from __future__ import annotations

import ssl
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import redis
from redis.sentinel import Sentinel, SentinelManagedSSLConnection

from tasks.redis_url import RedisUrl, without_password
from tasks.transfer.errors import BadOption

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tasks.settings import Settings


class SentinelPassword(redis.CredentialProvider):
    """What the Sentinels are told of us.

    Not as plain options: workers tell their transport options to whoever asks for their statistics, Flower among them.
    """

    def __init__(self, user: str | None, password: str) -> None:
        self._credentials = (user, password) if user else (password,)

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """User, if there is one, and password, as redis-py wants them."""
        return self._credentials

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        """The same, for Flower."""
        return self.get_credentials()

    def __json__(self) -> str:
        return "**********"


@dataclass(frozen=True)
class RedisServer:
    """One Redis, and how to connect to it."""

    url: RedisUrl
    where: str  #: as it may be shown
    timeout_seconds: float
    tls: Mapping[str, Any] | None  #: redis-py's options; None: without TLS
    master: str  #: what the Sentinels call it, if there are any
    sentinel_credentials: SentinelPassword | None

    @classmethod
    def of(cls, settings: Settings) -> RedisServer:
        """The Redis of these settings, which must name one.

        Raises:
            BadOption: certificates cannot be read.
        """
        if settings.redis_url is None:
            raise AssertionError("settings without a Redis have no server")
        text = settings.redis_url.get_secret_value()
        url = RedisUrl.parse(text)
        password = settings.redis_sentinel_password
        return cls(
            url=url,
            where=without_password(text),
            timeout_seconds=settings.redis_timeout_seconds,
            tls=_tls(url, settings) if url.uses_tls else None,
            master=settings.redis_sentinel_master,
            sentinel_credentials=SentinelPassword(settings.redis_sentinel_user, password.get_secret_value())
            if password
            else None,
        )

    def for_broker(self) -> dict[str, Any]:
        """Celery's settings that say where its broker is; the transport's options are not among them."""
        # A dict: kombu ignores a mere True, and goes on without TLS; and what is not said is CERT_NONE there.
        return {"broker_url": self.url.plain, "broker_use_ssl": dict(self.tls) if self.tls else None}

    def for_results(self) -> dict[str, Any]:
        """Celery's settings that say where results are kept; the transport's options are not among them."""
        return {
            "result_backend": self.url.plain,
            "redis_backend_use_ssl": dict(self.tls) if self.tls else None,
            "redis_socket_timeout": self.timeout_seconds,
            "redis_socket_connect_timeout": self.timeout_seconds,
            # A Unix socket has no keepalive, and redis-py refuses the option there.
            "redis_socket_keepalive": not self.url.is_socket,
            "redis_backend_health_check_interval": 30,
        }

    def transport_options(self) -> dict[str, Any]:
        """What broker and results need to know to find Redis through Sentinels."""
        if not self.url.sentinels:
            return {}
        return {"master_name": self.master, "sentinel_kwargs": self._sentinel_options()}

    def connect(self) -> Any:
        """A client of redis-py; it has not connected yet.

        Raises:
            TypeError: the URL has options that redis-py does not know.
            ValueError: its options or its host make no sense.
        """
        options: dict[str, Any] = {
            "decode_responses": True,
            # One damaged value must not keep anybody from all that it is read together with.
            "encoding_errors": "backslashreplace",
            "socket_timeout": self.timeout_seconds,
            "socket_connect_timeout": self.timeout_seconds,
            "health_check_interval": 30,
            # Version 3 begins with HELLO, which an old Redis answers with an error that repeats the password.
            "protocol": 2,
            **(self.tls or {}),
        }
        if not self.url.is_socket:
            options["socket_keepalive"] = True
        if self.url.sentinels:
            return self._connect_by_sentinels(options)
        client = redis.Redis.from_url(_redis_py_url(self.url.plain), **options)
        # Options of the URL that it does not know are only found out by making a connection object.
        client.connection_pool.make_connection()
        return client

    def sentinel_clients(self) -> list[Any]:
        """A client of each of the Sentinels."""
        return [redis.Redis(host, port, **self._sentinel_options()) for host, port in self.url.sentinels]

    def _connect_by_sentinels(self, options: dict[str, Any]) -> Any:
        if self.tls:
            options["connection_class"] = SentinelManagedSSLConnection
        sentinels: Any = Sentinel(self.url.sentinels, sentinel_kwargs=self._sentinel_options())  # type: ignore[no-untyped-call]
        return sentinels.master_for(
            self.master,
            db=self.url.database,
            username=self.url.username,
            password=self.url.password,
            **options,
        )

    def _sentinel_options(self) -> dict[str, Any]:
        options: dict[str, Any] = {
            "socket_timeout": self.timeout_seconds,
            "socket_connect_timeout": self.timeout_seconds,
            "decode_responses": True,
            "protocol": 2,
            # redis-py would try one that is dead three times more, for seconds, before it asks the next.
            "retry": None,
        }
        if self.sentinel_credentials:
            options["credential_provider"] = self.sentinel_credentials
        if self.tls:
            options |= {"ssl": True, **self.tls}
        return options


def _tls(url: RedisUrl, settings: Settings) -> dict[str, Any]:
    """The options of redis-py for TLS; what settings say goes before what the URL does."""
    options: dict[str, Any] = {
        # Said in full: Celery's backend asks for it, and kombu's default is to verify nothing.
        "ssl_cert_reqs": ssl.CERT_REQUIRED,
        "ssl_check_hostname": True,
        **url.tls_options,
    }
    if options["ssl_cert_reqs"] == "none":
        options["ssl_cert_reqs"], options["ssl_check_hostname"] = ssl.CERT_NONE, False
    else:
        options["ssl_cert_reqs"] = ssl.CERT_REQUIRED
    files = {
        "ssl_ca_certs": settings.redis_ca_file,
        "ssl_certfile": settings.redis_cert_file,
        "ssl_keyfile": settings.redis_key_file,
    }
    options |= {name: str(path.absolute()) for name, path in files.items() if path is not None}
    _check_files(options)
    return options


def _check_files(options: Mapping[str, Any]) -> None:
    """Read the files once: each connection would fail at them, and not say which it was."""
    context = ssl.create_default_context()
    if ca_file := options.get("ssl_ca_certs"):
        with _told("The CA certificates", ca_file):
            context.load_verify_locations(ca_file)
    if cert_file := options.get("ssl_certfile"):
        with _told("The client certificate", cert_file):
            # Without a password: who runs a worker has nobody who could type it.
            context.load_cert_chain(cert_file, options.get("ssl_keyfile"), password="")


@contextmanager
def _told(what: str, name: str) -> Iterator[None]:
    try:
        yield
    except ssl.SSLError:
        raise BadOption(
            f"{what} of Redis in {name} cannot be used: it is not in PEM, or its key is another one or has a password."
        ) from None
    except OSError as error:
        raise BadOption(f"{what} of Redis in {name} cannot be read: {error.strerror or error}.") from None


def _redis_py_url(url: str) -> str:
    """Celery's spelling of a Unix socket in redis-py's."""
    if not url.startswith("redis+socket://"):
        return url
    return "unix://" + url.removeprefix("redis+socket://").replace("virtual_host=", "db=")
