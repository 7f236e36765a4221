"""Redis over TLS: whom it is, and whom it lets in, is made sure of by all who connect; what is wrong is told."""

from __future__ import annotations

import asyncio
import contextlib
import random

import flower.utils.broker
import pytest
from kombu.exceptions import OperationalError
from redis.exceptions import ConnectionError as RedisConnectionError

from support.cluster import cluster
from support.files import MIB
from support.flower import flower as running_flower
from support.flower import page
from support.origin import origin
from support.redis_kinds import MASTER, Authority, TlsRedis, started, tls_sentinel
from support.redis_server import RedisServer
from support.tools import free_port, wait_until
from tasks.app import make_app
from tasks.host import records_of
from tasks.jobs import JobState
from tasks.records import RedisAway, RedisError
from tasks.settings import Settings
from tasks.transfer.errors import BadOption

CONTENT = random.Random(29).randbytes(4 * MIB + 1)


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> Authority:
    return Authority.new(tmp_path_factory.mktemp("authority") / "ours")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory) -> Authority:
    return Authority.new(tmp_path_factory.mktemp("stranger") / "theirs")


@pytest.fixture(scope="module")
def strict(authority, tmp_path_factory):
    """One that wants a client certificate, and a password."""
    folder = tmp_path_factory.mktemp("strict")
    server = TlsRedis(free_port(), folder, "tls-s3cret", authority=authority, wants_certificate=True)
    with started(server):
        yield server


@pytest.fixture(scope="module")
def lenient(authority, tmp_path_factory):
    with started(TlsRedis(free_port(), tmp_path_factory.mktemp("lenient"), authority=authority)) as server:
        yield server


@pytest.fixture(scope="module")
def misnamed(authority, tmp_path_factory):
    folder = tmp_path_factory.mktemp("misnamed")
    with started(TlsRedis(free_port(), folder, authority=authority, name="elsewhere.example")) as server:
        yield server


def check(url: str, **settings: str) -> None:
    with contextlib.closing(records_of(Settings(redis_url=url, **settings))) as records:
        records.check()


def test_a_job_comes_over_tls_with_a_client_certificate(strict: TlsRedis, tmp_path):
    with cluster(strict, tmp_path) as one, origin(CONTENT) as served:
        one.start_worker("--concurrency", "4", "--processes", "1")
        with one.orchestrator() as orchestrator, running_flower(one) as pages:
            job = orchestrator.submit(served.url, chunk_size_bytes=MIB)
            assert job.wait(120).state is JobState.COMPLETE
            # Flower counts queues by a client of its own.
            wait_until(lambda: "chunks.7" in page(f"{pages}/broker"), what="queues on Flower's page")
            shown = page(f"{pages}/broker")
        assert (one.volume / "big.bin").read_bytes() == CONTENT
        settings = one.run("settings")
    assert "tls-s3cret" not in shown + one.log() + settings.stdout


def test_the_options_of_a_url_that_needed_them_are_still_taken(strict: TlsRedis):
    files = strict.settings
    query = (
        f"ssl_cert_reqs=CERT_REQUIRED&ssl_ca_certs={files['redis_ca_file']}"
        f"&ssl_certfile={files['redis_cert_file']}&ssl_keyfile={files['redis_key_file']}"
    )
    check(f"{strict.url}?{query}")
    app = make_app(Settings(redis_url=f"{strict.url}?{query}"))
    with app.connection() as connection:
        connection.connect()
    assert app.backend.client.ping()


def test_who_does_not_verify_says_so_in_the_url(misnamed: TlsRedis, stranger: Authority):
    check(f"{misnamed.url}?ssl_cert_reqs=none")
    with pytest.raises(RedisError, match="a CA that is not known here"):
        check(f"{misnamed.url}?ssl_check_hostname=false", redis_ca_file=str(stranger.file))
    check(f"{misnamed.url}?ssl_check_hostname=false", **misnamed.settings)


def _sentence(url: str, **settings: str) -> str:
    with pytest.raises(RedisError) as caught:
        check(url, **settings)
    return str(caught.value)


def test_each_way_to_fail_has_a_sentence(strict, lenient, misnamed, authority, stranger, tmp_path):
    ca = {"redis_ca_file": str(authority.file)}
    cert_file, key_file = stranger.certificate("client.example")
    strangers = {**ca, "redis_cert_file": str(cert_file), "redis_key_file": str(key_file)}
    # By the system's CAs, and by another one.
    assert "a CA that is not known here. Set ORCHESTRATOR_REDIS_CA_FILE" in _sentence(lenient.url)
    assert "a CA that is not known here" in _sentence(lenient.url, redis_ca_file=str(stranger.file))
    assert "a certificate for another host name" in _sentence(misnamed.url, **ca)
    assert "a client certificate" in _sentence(strict.url, **ca)
    assert "client certificate" in _sentence(strict.url, **strangers)
    assert "TLS, with rediss://" in _sentence(lenient.url.replace("rediss://", "redis://"))
    with started(RedisServer(free_port(), tmp_path)) as plain:
        sentence = _sentence(plain.url.replace("redis://", "rediss://"), redis_timeout_seconds="3", **ca)
    # One of two: Redis waits for the end of a line, which the beginning of TLS may have in it.
    assert "TLS on this port" in sentence


def test_a_refusal_is_none_that_is_waited_for(lenient, misnamed, authority):
    for url, settings in ((lenient.url, {}), (misnamed.url, misnamed.settings)):
        with pytest.raises(RedisError) as caught:
            check(url, **settings)
        assert not isinstance(caught.value, RedisAway)


@pytest.mark.parametrize("command", [("worker",), ("flower",), ("list",)], ids=lambda words: words[0])
def test_the_command_line_tells_it_with_code_5(misnamed: TlsRedis, tmp_path, command):
    with cluster(misnamed, tmp_path) as one:
        done = one.run(*command)
    assert done.returncode == 5, done.stderr
    assert "a certificate for another host name" in " ".join(done.stderr.split())


def test_celery_and_flower_verify_as_we_do(misnamed: TlsRedis, lenient: TlsRedis, stranger: Authority):
    for url, settings in (
        (misnamed.url, misnamed.settings),
        (lenient.url, {"redis_ca_file": str(stranger.file)}),
    ):
        app = make_app(Settings(redis_url=url, **settings))
        with app.connection() as connection, pytest.raises((OperationalError, RedisConnectionError)):
            connection.connect()
        with pytest.raises(RedisConnectionError):
            app.backend.client.ping()
        with pytest.raises(RedisConnectionError):
            asyncio.run(_ask_as_flower(app))


async def _ask_as_flower(app) -> None:
    with app.connection() as connection:
        url = connection.as_uri(include_password=True)
    broker = flower.utils.broker.Broker(
        url, broker_options=app.conf.broker_transport_options, broker_use_ssl=app.conf.broker_use_ssl
    )
    await broker.queues(["chunks"])


def test_sentinels_and_their_master_speak_tls(lenient: TlsRedis, stranger: Authority, tmp_path):
    with tls_sentinel(lenient, tmp_path) as url:
        settings = {**lenient.settings, "redis_sentinel_master": MASTER}
        check(url, **settings)
        app = make_app(Settings(redis_url=url, **settings))
        with app.connection() as connection:
            connection.connect()
        assert app.backend.client.ping()
        asyncio.run(_ask_as_flower(app))
        strangers = {**settings, "redis_ca_file": str(stranger.file)}
        assert "a CA that is not known here" in _sentence(url, **strangers)
        app = make_app(Settings(redis_url=url, **strangers))
        with app.connection() as connection, pytest.raises((OperationalError, RedisConnectionError)):
            connection.connect()
        with pytest.raises(RedisConnectionError):
            app.backend.client.ping()
        plain = _sentence(url.replace("sentinels", "sentinel"), redis_sentinel_master=MASTER)
        assert "Does it want TLS, with sentinels://?" in plain


def test_files_that_cannot_be_used_are_told_before_anything_is_connected(authority, stranger, tmp_path):
    cert_file, key_file = authority.certificate("client.example")
    _, other_key_file = stranger.certificate("client.example")
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("nothing")
    for settings, told in (
        ({"redis_ca_file": str(tmp_path / "none.pem")}, "No such file"),
        ({"redis_ca_file": str(nonsense)}, "not in PEM"),
        ({"redis_cert_file": str(nonsense), "redis_key_file": str(key_file)}, "not in PEM"),
        (
            {"redis_cert_file": str(cert_file), "redis_key_file": str(other_key_file)},
            "its key is another one",
        ),
    ):
        with pytest.raises(BadOption, match=told):
            check("rediss://127.0.0.1:1/0", **settings)
