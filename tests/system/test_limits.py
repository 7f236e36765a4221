"""Servers that limit connections, requests or speed: a job of many chunks gets by with what there is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.access_log import wait_until_logged
from support.cluster import cluster
from support.downloads import bring
from support.redis_server import redis_server
from support.web_servers import apache, caddy, lighttpd, nginx

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.cluster import Cluster
    from support.site_files import SiteFiles

CHUNKS = 21
IN_CHUNKS = ("--chunk-size", "256k")

_NGINX_ZONES = """
limit_conn_zone $binary_remote_addr zone=connections:1m;
limit_req_zone $binary_remote_addr zone=requests:1m rate=20r/s;
"""
# Slow enough that connections overlap: a chunk takes about half a second.
_NGINX = """
location /503/ { limit_rate 200k; limit_conn connections 4; limit_conn_status 503; alias DOCUMENTS/; }
location /429/ { limit_rate 200k; limit_conn connections 4; limit_conn_status 429; alias DOCUMENTS/; }
location /requests/ { limit_req zone=requests burst=2 nodelay; limit_req_status 503; alias DOCUMENTS/; }
location /slow/ { limit_rate 200k; alias DOCUMENTS/; }
"""

# Who finds no worker waits in the kernel's queue.
_APACHE = """
ServerLimit 1
ThreadsPerChild 4
MaxRequestWorkers 4
<Location />
    SetOutputFilter RATE_LIMIT
    SetEnv rate-limit 1024
</Location>
"""

# With connections that are kept open it is the same, and takes its time: an idle one is one of the four.
_LIGHTTPD = """
server.max-connections = 4
server.max-keep-alive-requests = 0
connection.kbytes-per-second = 1024
"""

# Caddy limits nobody by itself; as a proxy it refuses with 503 what would be too much for those behind it.
_CADDY = """
reverse_proxy /slow/* ORIGIN {
    unhealthy_request_count 4
    max_fails 1
}
"""


@pytest.fixture(scope="module")
def one_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A worker with the default settings: how long it waits between attempts is under test here."""
    folder = tmp_path_factory.mktemp("cluster")
    with redis_server(folder) as redis, cluster(redis, folder) as one:
        one.start_worker()
        yield one


@pytest.fixture
def get(workers: Cluster, site_files: SiteFiles):
    """Bring data.bin from a folder of a server in many chunks, with the right bytes."""

    def bring_data(folder_url: str) -> dict[str, object]:
        record = bring(
            workers, f"{folder_url}/data.bin", *IN_CHUNKS,
            name="data.bin", sha256=site_files.digests["data.bin"],
        )  # fmt: skip
        assert record["chunks_count"] == CHUNKS
        return record

    return bring_data


@pytest.fixture
def nginx_url(tmp_path: Path, site_files: SiteFiles) -> Iterator[str]:
    extra = _NGINX.replace("DOCUMENTS", str(site_files.folder))
    with nginx(tmp_path, site_files.folder, extra=extra, http_extra=_NGINX_ZONES) as url:
        yield url


def assert_learned(statuses: list[int], refusal: int) -> None:
    """Sixteen begin at once. When some were refused, the others know; then one more is tried, less and less often."""
    assert set(statuses) == {206, refusal}
    assert statuses[len(statuses) // 2 :].count(refusal) <= CHUNKS // 3, statuses


@pytest.mark.parametrize("status", [503, 429])
def test_a_job_gets_by_with_the_four_connections_that_nginx_allows(status, nginx_url, get, tmp_path):
    get(f"{nginx_url}/{status}")
    statuses = [request.status for request in wait_until_logged(tmp_path, CHUNKS)]
    assert_learned(statuses, status)


def test_a_job_gets_by_with_the_requests_a_second_that_nginx_allows(nginx_url, get, tmp_path):
    get(f"{nginx_url}/requests")
    assert {request.status for request in wait_until_logged(tmp_path, CHUNKS)} == {206, 503}


def test_a_job_gets_by_with_the_speed_that_nginx_allows(nginx_url, get, tmp_path):
    get(f"{nginx_url}/slow")
    assert {request.status for request in wait_until_logged(tmp_path, CHUNKS)} == {206}


def test_a_job_gets_by_with_four_slow_workers_of_apache(get, tmp_path, site_files: SiteFiles):
    with apache(tmp_path, site_files.folder, extra=_APACHE) as url:
        get(url)
        assert {request.status for request in wait_until_logged(tmp_path, CHUNKS)} == {206}


def test_a_job_gets_by_with_four_slow_connections_of_lighttpd(get, tmp_path, site_files: SiteFiles):
    with lighttpd(tmp_path, site_files.folder, extra=_LIGHTTPD) as url:
        get(url)


def test_a_job_gets_by_with_the_four_requests_that_caddy_lets_through(
    nginx_url, get, tmp_path_factory, site_files: SiteFiles
):
    folder = tmp_path_factory.mktemp("caddy")
    extra = _CADDY.replace("ORIGIN", nginx_url.removeprefix("http://"))
    with caddy(folder, site_files.folder, extra=extra) as url:
        get(f"{url}/slow")
        statuses = [request.status for request in wait_until_logged(folder, CHUNKS)]
    assert_learned(statuses, 503)
