"""What URLs of Redis say."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from tasks.redis_url import RedisUrl, without_password
from tasks.settings import Settings


@pytest.mark.parametrize(
    ("url", "hosts", "plain"),
    [
        ("sentinel://a", (("a", 26379),), "sentinel://a:26379/0"),
        ("sentinel://a:1,b/3", (("a", 1), ("b", 26379)), "sentinel://a:1/3;sentinel://b:26379/3"),
        ("sentinel://:p%40ss@a,[::1]:2/", (("a", 26379), ("::1", 2)), "sentinel://:p%40ss@a:26379/0;sentinel://:p%40ss@[::1]:2/0"),
        ("sentinels://me:x;y@a/1", (("a", 26379),), "sentinel://me:x%3By@a:26379/1"),  # kombu splits at semicolons
    ],
)  # fmt: skip
def test_sentinels_are_a_list_with_commas(url, hosts, plain):
    parsed = RedisUrl.parse(url)
    assert (parsed.sentinels, parsed.plain) == (hosts, plain)
    assert parsed.uses_tls is url.startswith("sentinels")


def test_the_user_of_sentinels_urls_is_that_of_redis():
    parsed = RedisUrl.parse("sentinel://me:p%40ss%2Fw@a,b/2")
    assert (parsed.username, parsed.password, parsed.database) == ("me", "p@ss/w", 2)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("sentinel://:hunter2@a:1;sentinel://:hunter2@b:2", "one list with commas"),
        ("sentinel://:hunter2@a,,b", "empty host"),
        ("sentinel://:hunter2@a:port", "a port that is no number"),
        ("sentinel://:hunter2@a/0?master=x", "without options"),
        ("sentinel://:hunter2@a/mymaster", "number of a database"),
        ("redis://:hunter2@a/files", "number of a database"),
        ("redis://:hunter2@a/0?ssl_ca_certs=x", "it must begin with rediss://"),
        ("rediss://:hunter2@a/0?ssl_cert_reqs=perhaps", "ssl_cert_reqs"),
        ("rediss://:hunter2@a/0?ssl_keyfile_pass=x", "ssl_keyfile_pass"),
        ("http://:hunter2@a", "must begin with one of"),
    ],
)
def test_nonsense_is_told_without_the_password(url, told):
    with pytest.raises(ValueError, match=told) as caught:
        RedisUrl.parse(url)
    assert "hunter2" not in str(caught.value)


def test_options_for_tls_are_taken_off_the_url_for_each_reads_them_otherwise():
    parsed = RedisUrl.parse(
        "rediss://a/1?ssl_cert_reqs=CERT_REQUIRED&socket_timeout=5&ssl_ca_certs=%2Fca.pem"
    )
    assert parsed.plain == "rediss://a/1?socket_timeout=5"
    assert parsed.tls_options == {"ssl_cert_reqs": "required", "ssl_ca_certs": "/ca.pem"}


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sentinel://me:hunter2@a:1,b:2/0", "sentinel://a:1,b:2/0"),
        (
            "sentinel://:hunter2@a;sentinel://:hunter2@b",
            "sentinel://b",
        ),  # refused, but shown in an error perhaps
        ("redis://h/0?password=hunter2", "redis://h/0"),
    ],
)
def test_nothing_secret_is_shown(url, shown):
    assert without_password(url) == shown


@pytest.mark.parametrize(
    "values",
    [
        {"redis_url": "redis://a", "redis_ca_file": "/ca.pem"},  # whoever names a CA expects TLS
        {"redis_url": "sentinel://a", "redis_cert_file": "/c.pem"},
        {"redis_url": "rediss://a", "redis_key_file": "/k.pem"},
    ],
)
def test_certificates_without_a_use_are_refused(values):
    with pytest.raises(ValidationError):
        Settings(**values)


def test_certificates_are_no_matter_of_a_socket_that_replaces_the_cluster():
    assert Settings(redis_url="redis+socket:///run/redis.sock", redis_ca_file="/ca.pem").redis_ca_file
