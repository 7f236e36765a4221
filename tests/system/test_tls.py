"""https: certificates that are trusted and that are not, of servers and of clients, and redirects down to http."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import trustme

from support.cluster import cluster
from support.downloads import bring, refused
from support.redis_server import redis_server
from support.site_files import DATA_CHUNKS
from support.web_servers import caddy, nginx

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.site_files import SiteFiles

IN_CHUNKS = ("--chunk-size", "1M")


@dataclass(frozen=True)
class Authority:
    """A certificate authority, and certificates that it made."""

    ca: trustme.CA
    folder: Path

    @property
    def file(self) -> str:
        path = self.folder / "ca.pem"
        self.ca.cert_pem.write_to_path(path)
        return str(path)

    def certificate(self, *names: str) -> Path:
        """PEM with key and certificate for these names."""
        path = self.folder / f"{names[0]}.pem"
        self.ca.issue_cert(*names).private_key_and_cert_chain_pem.write_to_path(path)
        return path


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(trustme.CA(), tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(trustme.CA(), tmp_path_factory.mktemp("stranger"))


@pytest.fixture(scope="module")
def secure_nginx(authority, other_site, site_files: SiteFiles, tmp_path_factory) -> Iterator[str]:
    extra = f"location /down/ {{ rewrite ^/down/(.*)$ {other_site.url}/$1 redirect; }}"
    folder = tmp_path_factory.mktemp("nginx")
    certificate = authority.certificate("127.0.0.1", "localhost")
    with nginx(folder, site_files.folder, extra=extra, certificate=certificate) as url:
        yield url


@pytest.fixture(scope="module")
def secure_caddy(authority, site_files: SiteFiles, tmp_path_factory) -> Iterator[str]:
    certificate = authority.certificate("127.0.0.1", "localhost")
    with caddy(tmp_path_factory.mktemp("caddy"), site_files.folder, certificate=certificate) as url:
        yield url


@pytest.fixture(scope="module")
def misnamed_nginx(authority, site_files: SiteFiles, tmp_path_factory) -> Iterator[str]:
    certificate = authority.certificate("elsewhere.example")
    with nginx(tmp_path_factory.mktemp("misnamed"), site_files.folder, certificate=certificate) as url:
        yield url


@pytest.fixture(scope="module")
def strict_nginx(authority, site_files: SiteFiles, tmp_path_factory) -> Iterator[str]:
    """Lets in who has a certificate of the authority."""
    extra = f"ssl_client_certificate {authority.file}; ssl_verify_client on;"
    folder = tmp_path_factory.mktemp("strict")
    certificate = authority.certificate("127.0.0.1")
    with nginx(folder, site_files.folder, extra=extra, certificate=certificate) as url:
        yield url


@pytest.fixture(scope="module")
def signposts_nginx(authority, strict_nginx, site_files: SiteFiles, tmp_path_factory) -> Iterator[str]:
    """Leads to who lets in those with a certificate only, and asks for none itself."""
    extra = f"location /away/ {{ rewrite ^/away/(.*)$ {strict_nginx}/$1 redirect; }}"
    folder = tmp_path_factory.mktemp("signposts")
    certificate = authority.certificate("127.0.0.1")
    with nginx(folder, site_files.folder, extra=extra, certificate=certificate) as url:
        yield url


@pytest.fixture(params=["secure_nginx", "secure_caddy"])
def secure(request: pytest.FixtureRequest) -> str:
    return request.getfixturevalue(request.param)


@pytest.fixture
def get(workers, site_files: SiteFiles):
    """Bring data.bin from a URL in several chunks."""

    def bring_data(url: str, *options: str) -> None:
        record = bring(
            workers, f"{url}/data.bin", *IN_CHUNKS, *options,
            name="data.bin", sha256=site_files.digests["data.bin"],
        )  # fmt: skip
        assert record["chunks_count"] == DATA_CHUNKS

    return bring_data


def test_a_certificate_of_a_known_authority_is_accepted(secure, authority, get):
    get(secure, "--ca-file", authority.file)
    get(secure.replace("127.0.0.1", "localhost"), "--ca-file", authority.file)


def test_a_certificate_of_an_unknown_authority_is_refused(secure, stranger, workers):
    for options in ((), ("--ca-file", stranger.file)):
        code, sentence = refused(workers, f"{secure}/data.bin", *IN_CHUNKS, *options)
        assert code == "BadCertificate"
        assert "unable to get local issuer certificate" in sentence


def test_insecure_accepts_any_certificate_for_its_own_job_only(
    secure, misnamed_nginx, authority, workers, get
):
    get(secure, "--insecure")
    get(misnamed_nginx, "--insecure")
    # The connections of the insecure job are still open.
    assert refused(workers, f"{secure}/data.bin", *IN_CHUNKS).code == "BadCertificate"
    options = (*IN_CHUNKS, "--ca-file", authority.file)
    assert refused(workers, f"{misnamed_nginx}/data.bin", *options).code == "BadCertificate"


def test_a_certificate_for_another_name_is_refused(misnamed_nginx, authority, workers):
    code, sentence = refused(workers, f"{misnamed_nginx}/data.bin", "--ca-file", authority.file)
    assert code == "BadCertificate"
    assert "not valid for '127.0.0.1'" in sentence


def test_a_client_certificate_lets_its_own_job_in_only(strict_nginx, authority, stranger, workers, get):
    client = authority.ca.issue_cert("client@example.org")
    cert, key, both = (authority.folder / name for name in ("cert.pem", "key.pem", "both.pem"))
    client.cert_chain_pems[0].write_to_path(cert)
    client.private_key_pem.write_to_path(key)
    client.private_key_and_cert_chain_pem.write_to_path(both)
    trust = ("--ca-file", authority.file)
    get(strict_nginx, *trust, "--cert", str(cert), "--key", str(key))
    get(strict_nginx, *trust, "--cert", str(both))
    # The connections of those who were let in are still open.
    strangers = str(stranger.certificate("client@example.org"))
    for options in ((), ("--cert", strangers)):
        code, sentence = refused(workers, f"{strict_nginx}/data.bin", *IN_CHUNKS, *trust, *options)
        assert code == "SourceRefused"
        assert " answered 400 " in sentence
    for file in (key, both):
        secret = file.read_text().splitlines()[1]
        assert secret not in workers.log()


def test_a_client_certificate_stays_with_its_origin(signposts_nginx, strict_nginx, authority, workers, get):
    client = str(authority.certificate("client@example.org"))
    options = ("--ca-file", authority.file, "--cert", client)
    code, sentence = refused(workers, f"{signposts_nginx}/away/data.bin", *IN_CHUNKS, *options)
    assert code == "SourceRefused"
    assert f"{strict_nginx}/data.bin answered 400 " in sentence
    get(f"{signposts_nginx}/away", *options, "--location-trusted")


def test_a_redirect_down_to_http_is_followed_on_request_only(secure_nginx, authority, workers, get):
    down = f"{secure_nginx}/down"
    code, sentence = refused(workers, f"{down}/data.bin", *IN_CHUNKS, "--ca-file", authority.file)
    assert code == "RedirectRefused"
    assert "--allow-downgrade" in sentence
    get(down, "--ca-file", authority.file, "--allow-downgrade")


def test_the_authorities_of_the_workers_environment_are_trusted(
    secure_nginx, misnamed_nginx, authority, stranger, site_files: SiteFiles, tmp_path
):
    url, digest = f"{secure_nginx}/data.bin", site_files.digests["data.bin"]
    with redis_server(tmp_path) as redis, cluster(redis, tmp_path) as one:
        one.start_worker(REQUESTS_CA_BUNDLE=authority.file)
        bring(one, url, *IN_CHUNKS, name="data.bin", sha256=digest)
        # What the job says goes before it.
        assert refused(one, url, *IN_CHUNKS, "--ca-file", stranger.file).code == "BadCertificate"
        bring(one, f"{misnamed_nginx}/data.bin", *IN_CHUNKS, "--insecure", name="data.bin", sha256=digest)
