"""HTTP and SOCKS proxies, from the option and from the environment: what goes through them, and what does not."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
import trustme

from support.cluster import cluster
from support.downloads import bring, refused
from support.proxies import microsocks, squid
from support.redis_server import redis_server
from support.scripted import scripted_server
from support.site_files import DATA_CHUNKS
from support.tools import free_port, wait_until
from support.web_servers import nginx

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.proxies import Proxy
    from support.site_files import SiteFiles

IN_CHUNKS = ("--chunk-size", "1M")
USER, PASSWORD, WRONG = "pr0xy-user", "pr0xy-s3cret", "wr0ng-s3cret"


@dataclass(frozen=True)
class Origins:
    """One nginx over http and one over https."""

    http: str
    https: str
    trust: tuple[str, ...]  #: options that make the second one's certificate good

    def of(self, scheme: str) -> tuple[str, tuple[str, ...]]:
        return (self.http, ()) if scheme == "http" else (self.https, self.trust)


@pytest.fixture(scope="module")
def origins(site_files: SiteFiles, tmp_path_factory) -> Iterator[Origins]:
    folder = tmp_path_factory.mktemp("https")
    authority, ca_file, certificate = trustme.CA(), folder / "ca.pem", folder / "server.pem"
    authority.cert_pem.write_to_path(ca_file)
    authority.issue_cert("127.0.0.1", "localhost").private_key_and_cert_chain_pem.write_to_path(certificate)
    # squid logs a tunnel when it ends, and a worker keeps connections open.
    extra = "keepalive_timeout 1;"
    with (
        nginx(tmp_path_factory.mktemp("http"), site_files.folder) as http,
        nginx(folder, site_files.folder, certificate=certificate, extra=extra) as https,
    ):
        yield Origins(http, https, ("--ca-file", str(ca_file)))


@pytest.fixture(scope="module")
def proxies(tmp_path_factory) -> Iterator[dict[str, Proxy]]:
    folder = tmp_path_factory.mktemp("proxies")
    with ExitStack() as stack:
        yield {
            "open squid": stack.enter_context(squid()),
            "closed squid": stack.enter_context(squid((USER, PASSWORD))),
            "open microsocks": stack.enter_context(microsocks(folder)),
            "closed microsocks": stack.enter_context(microsocks(folder, (USER, PASSWORD))),
        }


def went_through(proxy: Proxy, url: str, since: int = 0) -> list[str]:
    """The lines of a proxy's log about an origin, since there were so many lines."""
    return [line for line in proxy.lines()[since:] if urlsplit(url).netloc in line]


@pytest.fixture
def get(workers, site_files: SiteFiles):
    """Bring data.bin from an origin in several chunks."""

    def bring_data(url: str, *options: str, of=workers) -> None:
        record = bring(
            of, f"{url}/data.bin", *IN_CHUNKS, *options,
            name="data.bin", sha256=site_files.digests["data.bin"],
        )  # fmt: skip
        assert record["chunks_count"] == DATA_CHUNKS
        assert not any(secret in text for secret in (PASSWORD, WRONG) for text in (str(record), of.log()))

    return bring_data


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(
    ("name", "proxy_url"),
    [
        ("open squid", "http://{}"),
        ("closed squid", f"http://{USER}:{PASSWORD}@{{}}"),
        ("open microsocks", "socks5://{}"),
        ("open microsocks", "socks5h://{}"),
        ("closed microsocks", f"socks5h://{USER}:{PASSWORD}@{{}}"),
    ],
)
def test_all_of_a_job_goes_through_the_proxy_that_it_names(name, proxy_url, scheme, proxies, origins, get):
    proxy, (url, options) = proxies[name], origins.of(scheme)
    before = len(proxy.lines())
    get(url, *options, "--proxy", proxy_url.format(proxy.address))
    # Of http each request is there. Of https a tunnel, and of SOCKS a connection, serves for several.
    least = DATA_CHUNKS if scheme == "http" and "squid" in name else 1
    wait_until(lambda: len(went_through(proxy, url, before)) >= least, what="the proxy's log")
    if "squid" in name:
        method = "GET" if scheme == "http" else "CONNECT"
        user = USER if "closed" in name else "-"
        assert {(line.split()[1], line.split()[3]) for line in went_through(proxy, url, before)} == {
            (method, user)
        }


def test_socks5h_leaves_names_to_the_proxy(proxies, origins, get):
    proxy = proxies["open microsocks"]
    before = len(proxy.lines())
    url = origins.http.replace("127.0.0.1", "localhost")
    get(url, "--proxy", f"socks5h://{proxy.address}")
    wait_until(lambda: went_through(proxy, url, before), what="the proxy's log")


def test_a_head_that_ends_too_early_behind_socks_is_no_empty_file(proxies, workers):
    # http.client takes it for a whole head without a Content-Length.
    with scripted_server(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Le") as server:
        code, _ = refused(workers, server.url, "--proxy", f"socks5h://{proxies['open microsocks'].address}")
    assert code == "NoProgress"


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("account", ["", f"{USER}:{WRONG}@"], ids=["none", "wrong"])
@pytest.mark.parametrize(
    ("name", "kind"),
    [("closed squid", "http"), ("closed microsocks", "socks5h")],
    ids=["squid", "microsocks"],
)
def test_a_proxy_that_wants_another_password_is_named_as_the_cause(
    name, kind, account, scheme, proxies, origins, workers
):
    url, options = origins.of(scheme)
    proxy = f"{kind}://{account}{proxies[name].address}"
    code, sentence = refused(workers, f"{url}/data.bin", *IN_CHUNKS, *options, "--proxy", proxy)
    assert (code, "--proxy" in sentence) == ("ProxyRefused", True), sentence
    assert not any(secret in text for secret in (PASSWORD, WRONG) for text in (sentence, workers.log()))


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("kind", ["http", "socks5h"])
def test_a_proxy_that_is_not_there_is_named_as_the_cause(kind, scheme, origins, workers):
    url, options = origins.of(scheme)
    proxy = f"{kind}://{USER}:{PASSWORD}@127.0.0.1:{free_port()}"
    code, sentence = refused(workers, f"{url}/data.bin", *IN_CHUNKS, *options, "--proxy", proxy)
    assert (code, "proxy" in sentence) == ("NoProgress", True), sentence
    assert not any(PASSWORD in text for text in (sentence, workers.log()))


def test_an_origin_that_socks_cannot_reach_is_not_the_proxys_fault(proxies, workers):
    url = f"http://127.0.0.1:{free_port()}/data.bin"
    code, sentence = refused(workers, url, "--proxy", f"socks5h://{proxies['open microsocks'].address}")
    assert (code, "the SOCKS proxy could not connect to it" in sentence) == ("NoProgress", True), sentence


@pytest.mark.parametrize(
    ("name", "variables"),
    [
        ("closed squid", {"http_proxy": "http://{}", "https_proxy": "http://{}"}),
        ("closed microsocks", {"all_proxy": "socks5h://{}"}),
    ],
    ids=["http_proxy", "all_proxy"],
)
def test_the_workers_environment_decides_for_jobs_that_name_no_proxy(
    name, variables, proxies, origins, get, tmp_path
):
    proxy, other = proxies[name], proxies["open squid"]
    variables = {key: value.format(f"{USER}:{PASSWORD}@{proxy.address}") for key, value in variables.items()}
    with redis_server(tmp_path) as redis, cluster(redis, tmp_path) as one:
        one.start_worker(**variables, no_proxy="localhost")
        for scheme in ("http", "https"):
            url, options = origins.of(scheme)
            before = len(proxy.lines())
            get(url, *options, of=one)
            wait_until(lambda: went_through(proxy, url, before), what="the proxy's log")  # noqa: B023
            # A name of no_proxy, through nothing, and then through the proxy that the job names.
            local = url.replace("127.0.0.1", "localhost")
            get(local, *options, of=one)
            before = len(other.lines())
            get(local, *options, "--proxy", f"http://{other.address}", of=one)
            wait_until(lambda: went_through(other, local, before), what="the other's log")  # noqa: B023
            assert went_through(proxy, local) == []
