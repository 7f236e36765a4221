"""nginx, Apache, lighttpd and Caddy: ranges, compression, passwords, redirects, names, sizes."""

from __future__ import annotations

import gzip
import urllib.request
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from support.access_log import logged, wait_until_logged
from support.downloads import bring, refused
from support.files import MIB
from support.site_files import CHUNK_BYTES, DATA_CHUNKS, SIZES_BYTES, SPECIAL_NAME
from support.sites import OFFERED_NAME, PASSWORD, SERVERS, USER

if TYPE_CHECKING:
    from support.cluster import Cluster
    from support.site_files import SiteFiles
    from support.sites import Site

pytestmark = pytest.mark.long

IN_CHUNKS = ("--chunk-size", str(CHUNK_BYTES))
ACCOUNT = ("--user", f"{USER}:{PASSWORD}")


@pytest.fixture(params=SERVERS)
def here(request: pytest.FixtureRequest, sites: dict[str, Site]) -> Site:
    return sites[request.param]


def chunks(size_bytes: int) -> int:
    return -(-size_bytes // CHUNK_BYTES)


def assert_nowhere(secret: str, cluster: Cluster, *texts: str) -> None:
    assert not any(secret in text for text in (*texts, cluster.log()))


@pytest.mark.parametrize("layout", ["parts", "shared"])
def test_a_file_of_an_odd_size_arrives_in_ranges(layout, here, site_files: SiteFiles, workers):
    record = bring(
        workers, f"{here.url}/data.bin", *IN_CHUNKS, "--layout", layout,
        name="data.bin", sha256=site_files.digests["data.bin"],
    )  # fmt: skip
    assert record["chunks_count"] == DATA_CHUNKS


# --- compression


def answer_to_gzip(url: str) -> tuple[str | None, bytes]:
    """What a browser would get: the content coding and the body."""
    with urllib.request.urlopen(urllib.request.Request(url, headers={"Accept-Encoding": "gzip"})) as response:
        return response.headers["Content-Encoding"], response.read()


@pytest.mark.parametrize("name", ["text.txt", "text.json"])
def test_a_type_that_is_compressed_for_browsers_arrives_plain_and_in_ranges(
    name, here, site_files: SiteFiles, workers
):
    coding, body = answer_to_gzip(f"{here.url}/compressed/{name}")
    assert (coding, len(body) < site_files.sizes_bytes[name] / 2) == ("gzip", True)
    record = bring(
        workers, f"{here.url}/compressed/{name}", *IN_CHUNKS, name=name, sha256=site_files.digests[name]
    )
    assert record["chunks_count"] == chunks(site_files.sizes_bytes[name]) > 1


@pytest.mark.parametrize("name", ["x.tar.gz", "text.txt.gz"])
@pytest.mark.parametrize("place", ["", "labelled/"])
def test_a_file_that_is_stored_compressed_arrives_as_it_is_stored(
    place, name, here, site_files: SiteFiles, workers
):
    with urllib.request.urlopen(f"{here.url}/{place}{name}") as response:
        assert response.headers["Content-Encoding"] == ("gzip" if place else None)
    bring(workers, f"{here.url}/{place}{name}", *IN_CHUNKS, name=name, sha256=site_files.digests[name])


@pytest.mark.parametrize("name", ["text.txt", "text.json"])
def test_what_is_compressed_against_the_request_is_undone(name, here, site_files: SiteFiles, workers):
    # Caddy's answer to a range is the compressed range, with the Content-Range of the plain file.
    request = urllib.request.Request(
        f"{here.url}/forced/{name}", headers={"Accept-Encoding": "identity", "Range": "bytes=0-99999"}
    )
    with urllib.request.urlopen(request) as response:
        assert response.headers["Content-Encoding"] == "gzip"
        body = response.read()
    assert len(gzip.decompress(body)) == (100_000 if here.server == "caddy" else site_files.sizes_bytes[name])
    record = bring(
        workers, f"{here.url}/forced/{name}", *IN_CHUNKS, name=name, sha256=site_files.digests[name]
    )
    assert record["chunks_count"] == 1


def test_what_is_only_there_compressed_is_undone(sites, site_files: SiteFiles, workers):
    url = f"{sites['nginx'].url}/precompressed/text.txt"
    bring(workers, url, *IN_CHUNKS, name="text.txt", sha256=site_files.digests["text.txt"])


# --- passwords


def test_basic_authentication_lets_the_right_password_in(here, site_files: SiteFiles, workers):
    record = bring(
        workers, f"{here.url}/private/data.bin", *IN_CHUNKS, *ACCOUNT,
        name="data.bin", sha256=site_files.digests["data.bin"],
    )  # fmt: skip
    assert record["chunks_count"] == DATA_CHUNKS
    assert_nowhere(PASSWORD, workers, str(record))


@pytest.mark.parametrize("account", [(), ("--user", f"{USER}:wr0ng"), ("--user", f"nobody:{PASSWORD}")])
def test_basic_authentication_lets_nobody_else_in(account, here, workers):
    code, sentence = refused(workers, f"{here.url}/private/data.bin", *IN_CHUNKS, *account)
    assert code == "SourceRefused"
    assert " answered 401 " in sentence
    for secret in ("wr0ng", PASSWORD):
        assert_nowhere(secret, workers, sentence)


DIGEST = [("apache", "digest"), ("lighttpd", "digest"), ("lighttpd", "digest-sha256")]


@pytest.mark.parametrize(("server", "place"), DIGEST)
def test_digest_authentication_lets_the_right_password_in(
    server, place, sites, site_files: SiteFiles, workers
):
    record = bring(
        workers, f"{sites[server].url}/{place}/data.bin", "--chunk-size", "256k", "--digest", *ACCOUNT,
        name="data.bin", sha256=site_files.digests["data.bin"],
    )  # fmt: skip
    assert record["chunks_count"] == 21
    assert_nowhere(PASSWORD, workers, str(record))


@pytest.mark.parametrize(("server", "place"), DIGEST)
@pytest.mark.parametrize(
    "account", [(), ("--digest", "--user", f"{USER}:wr0ng"), ACCOUNT]
)  # the last one: Basic
def test_digest_authentication_lets_nobody_else_in(account, server, place, sites, workers):
    code, sentence = refused(workers, f"{sites[server].url}/{place}/data.bin", *IN_CHUNKS, *account)
    assert code == "SourceRefused"
    assert " answered 401 " in sentence


# --- redirects


def test_a_redirect_within_the_origin_takes_the_password_along(here, site_files: SiteFiles, workers):
    record = bring(
        workers, f"{here.url}/moved/private/data.bin", *IN_CHUNKS, *ACCOUNT,
        name="data.bin", sha256=site_files.digests["data.bin"],
    )  # fmt: skip
    assert record["chunks_count"] == DATA_CHUNKS


SECRET_HEADER = ("-H", "Authorization: Bearer t0ken", "-H", "Cookie: session=c00kie")


@pytest.mark.parametrize("secrets", [ACCOUNT, SECRET_HEADER], ids=["user", "headers"])
def test_a_redirect_to_another_origin_takes_nothing_secret_along(
    secrets, here, other_site: Site, site_files: SiteFiles, workers
):
    before = len(logged(other_site.folder))
    record = bring(
        workers, f"{here.url}/away/data.bin", *IN_CHUNKS, *secrets,
        name="data.bin", sha256=site_files.digests["data.bin"],
    )  # fmt: skip
    assert record["chunks_count"] == DATA_CHUNKS
    there = wait_until_logged(other_site.folder, before + DATA_CHUNKS)[before:]
    assert {(request.status, request.authorization, request.cookie) for request in there} == {(206, "", "")}


def test_without_its_password_the_other_origin_refuses(here, other_site: Site, workers):
    before = len(logged(other_site.folder))
    code, sentence = refused(workers, f"{here.url}/away/private/data.bin", *IN_CHUNKS, *ACCOUNT)
    assert code == "SourceRefused"
    assert f"{other_site.url}/private/data.bin answered 401" in sentence
    there = wait_until_logged(other_site.folder, before + 1)[before:]
    assert {(request.status, request.authorization) for request in there} == {(401, "")}


def test_location_trusted_takes_the_password_to_the_other_origin(
    here, other_site: Site, site_files: SiteFiles, workers
):
    before = len(logged(other_site.folder))
    record = bring(
        workers, f"{here.url}/away/private/data.bin", *IN_CHUNKS, *ACCOUNT, "--location-trusted",
        name="data.bin", sha256=site_files.digests["data.bin"],
    )  # fmt: skip
    assert record["chunks_count"] == DATA_CHUNKS
    there = wait_until_logged(other_site.folder, before + DATA_CHUNKS)[before:]
    assert {(request.status, request.authorization[:6]) for request in there} == {(206, "Basic ")}


# --- names


def test_the_name_that_the_server_offers_is_the_files_name(here, site_files: SiteFiles, workers):
    bring(
        workers, f"{here.url}/named/data.bin", *IN_CHUNKS,
        name=OFFERED_NAME, sha256=site_files.digests["data.bin"],
    )  # fmt: skip


def test_a_quoted_name_in_the_url_is_the_files_name(here, site_files: SiteFiles, workers):
    record = bring(
        workers, f"{here.url}/{quote(SPECIAL_NAME)}", *IN_CHUNKS,
        name=SPECIAL_NAME, sha256=site_files.digests[SPECIAL_NAME],
    )  # fmt: skip
    assert record["chunks_count"] == chunks(2 * MIB + 1)


# --- sizes


@pytest.mark.parametrize("name", SIZES_BYTES)
def test_every_size_about_a_chunk_arrives(name, here, site_files: SiteFiles, workers):
    record = bring(workers, f"{here.url}/{name}", *IN_CHUNKS, name=name, sha256=site_files.digests[name])
    assert record["chunks_count"] == chunks(SIZES_BYTES[name])
