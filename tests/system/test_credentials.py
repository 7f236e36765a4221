"""Cookies, netrc and passwords in URLs, against a server that wants them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.access_log import logged, wait_until_logged
from support.cluster import cluster
from support.downloads import bring, refused
from support.redis_server import redis_server
from support.site_files import DATA_CHUNKS
from support.sites import PASSWORD, USER
from support.web_servers import nginx

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.cluster import Cluster
    from support.site_files import SiteFiles

IN_CHUNKS = ("--chunk-size", "1M")
COOKIE = "s3cret-cookie"
LATER, EARLIER, SESSION = 4_000_000_000, 1_000_000_000, 0  #: when cookies end; 0 with the browser

_NGINX = f"""
location /gate/ {{
    if ($cookie_ticket != "{COOKIE}") {{
        add_header Set-Cookie "ticket={COOKIE}; Path=/";
        return 302 $request_uri;
    }}
    rewrite ^/gate/(.*)$ /$1 break;
}}
location /members/ {{
    if ($cookie_member != "{COOKIE}") {{ return 403; }}
    rewrite ^/members/(.*)$ /$1 break;
}}
location /private/ {{ auth_basic files; auth_basic_user_file PASSWORDS/htpasswd; }}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("nginx")


@pytest.fixture(scope="module")
def url(folder: Path, site_files: SiteFiles) -> Iterator[str]:
    extra = _NGINX.replace("PASSWORDS", str(site_files.passwords))
    with nginx(folder, site_files.folder, extra=extra) as one:
        yield one


@pytest.fixture
def get(workers: Cluster, site_files: SiteFiles):
    """Bring data.bin from a folder of a server in several chunks."""

    def bring_data(folder_url: str, *options: str, of: Cluster = workers) -> None:
        record = bring(
            of, f"{folder_url}/data.bin", *IN_CHUNKS, *options,
            name="data.bin", sha256=site_files.digests["data.bin"],
        )  # fmt: skip
        assert record["chunks_count"] == DATA_CHUNKS
        assert not any(secret in text for secret in (COOKIE, PASSWORD) for text in (str(record), of.log()))

    return bring_data


def cookie_file(path: Path, host: str, ends: int, *, place: str = "/", secure: str = "FALSE") -> str:
    """One cookie in Netscape's format: host, whether its subdomains too, path, https only, end, name, value."""
    fields = [host, "FALSE", place, secure, str(ends), "member", COOKIE]
    path.write_text("# Netscape HTTP Cookie File\n" + "\t".join(fields) + "\n")
    return str(path)


def test_a_cookie_that_a_redirect_sets_is_sent_to_its_target(url, folder, get):
    before = len(logged(folder, "/gate/"))
    get(f"{url}/gate")
    requests = wait_until_logged(folder, before + 2 * DATA_CHUNKS, "/gate/")[before:]
    # Each chunk is let in anew: a cookie belongs to its job.
    assert sorted(request.status for request in requests) == [206] * DATA_CHUNKS + [302] * DATA_CHUNKS


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])  # a number, and a name without a dot
@pytest.mark.parametrize("ends", [LATER, SESSION])  # curl writes 0 for those that end with the session
def test_a_cookie_of_the_file_is_sent(ends, host, url, get, tmp_path):
    place = url.replace("127.0.0.1", host)
    get(f"{place}/members", "--cookies", cookie_file(tmp_path / "cookies.txt", host, ends))


@pytest.mark.parametrize(
    ("host", "ends", "place", "secure"),
    [
        ("127.0.0.1", EARLIER, "/", "FALSE"),
        ("127.0.0.1", LATER, "/elsewhere", "FALSE"),
        ("127.0.0.1", LATER, "/", "TRUE"),  # for https only
        ("example.org", LATER, "/", "FALSE"),
    ],
    ids=["ended", "another path", "https only", "another host"],
)
def test_a_cookie_for_something_else_is_not_sent(host, ends, place, secure, url, folder, workers, tmp_path):
    before = len(logged(folder, "/members/"))
    file = cookie_file(tmp_path / "cookies.txt", host, ends, place=place, secure=secure)
    code, sentence = refused(workers, f"{url}/members/data.bin", *IN_CHUNKS, "--cookies", file)
    assert (code, " answered 403 " in sentence) == ("SourceRefused", True)
    requests = wait_until_logged(folder, before + 1, "/members/")[before:]
    assert {(request.status, request.cookie) for request in requests} == {(403, "")}


def test_user_and_password_may_be_in_the_url(url, get, workers):
    get(f"{url.replace('//', f'//{USER}:pa55%3Aw%C3%B6rd@')}/private")
    code, sentence = refused(workers, f"{url.replace('//', '//me:wr0ng@')}/private/data.bin", *IN_CHUNKS)
    assert (code, " answered 401 " in sentence) == ("SourceRefused", True)
    assert not any("wr0ng" in text for text in (sentence, workers.log()))


def test_the_workers_netrc_lets_in_those_who_give_no_password(url, get, site_files, tmp_path):
    netrc = tmp_path / "home" / ".netrc"
    netrc.parent.mkdir()
    netrc.write_text(f"machine 127.0.0.1 login {USER} password {PASSWORD}\n")
    netrc.chmod(0o600)
    with redis_server(tmp_path) as redis, cluster(redis, tmp_path) as one:
        one.start_worker(HOME=str(netrc.parent))
        get(f"{url}/private", of=one)
        # Another host, though it is the same server.
        elsewhere = url.replace("127.0.0.1", "localhost")
        assert refused(one, f"{elsewhere}/private/data.bin", *IN_CHUNKS).code == "SourceRefused"
        # What the job says goes before it.
        for options in (("--user", f"{USER}:wr0ng"), ("-H", "Authorization: Basic wr0ng")):
            assert refused(one, f"{url}/private/data.bin", *IN_CHUNKS, *options).code == "SourceRefused"
