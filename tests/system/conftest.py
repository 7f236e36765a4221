"""What the system tests share: documents, the web servers in front of them, a cluster, and homes."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.cluster import Cluster, cluster
from support.files import MIB, make_file
from support.redis_server import redis_server
from support.site_files import SiteFiles, make_site_files
from support.sites import SERVERS, Site, site
from support.system_helpers import Home, new_home, slow
from support.web_servers import apache, nginx

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZES_BYTES = {
    "empty": 0,  # no range can be asked for: any server answers 416 or 200
    "one-byte": 1,
    "below-probe": MIB - 1,
    "probe": MIB,  # what the probe asks for, to the byte
    "odd-end": 64 * MIB + 1,  # the last chunk is a byte
    "large": 300 * MIB,
}

_ANSWERS = """
location /401 { return 401; }
location /403 { return 403; }
location /404 { return 404; }
location /410 { return 410; }
"""


@dataclass(frozen=True)
class Documents:
    folder: Path
    digests: dict[str, str]  #: file name -> SHA-256


@pytest.fixture(scope="session")
def documents() -> Iterator[Documents]:
    # Not a folder of pytest's: those are for the user alone, and servers that root starts read as somebody else.
    with tempfile.TemporaryDirectory(prefix="mh-documents-") as created:
        folder = Path(created)
        folder.chmod(0o755)
        digests = {}
        for seed, (name, size_bytes) in enumerate(SIZES_BYTES.items()):
            path = folder / name
            digests[name] = make_file(path, size_bytes, seed=seed)
            # Apache calls the ETag of a file that changed a second ago weak.
            os.utime(path, (1_600_000_000 + seed, 1_600_000_000 + seed))
        yield Documents(folder, digests)


@pytest.fixture(scope="session")
def nginx_url(documents: Documents, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("nginx")
    with nginx(folder, documents.folder, extra=slow(documents.folder) + _ANSWERS) as url:
        yield url


@pytest.fixture(scope="session")
def apache_url(documents: Documents, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with apache(tmp_path_factory.mktemp("apache"), documents.folder) as url:
        yield url


@pytest.fixture(scope="module")
def one_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of one worker, for all tests of a module."""
    folder = tmp_path_factory.mktemp("cluster")
    with redis_server(folder) as redis, cluster(redis, folder) as one:
        # Failures that are tried again are under test here, not how long it waits in between.
        one.start_worker(ORCHESTRATOR_BACKOFF_CAP_SECONDS="0.2")
        yield one


@pytest.fixture
def home() -> Iterator[Home]:
    with new_home() as one:
        yield one


@pytest.fixture
def workers(one_worker: Cluster) -> Iterator[Cluster]:
    """The module's cluster with an empty volume, also after a test that failed."""
    yield one_worker
    for path in one_worker.volume.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


@pytest.fixture(scope="session")
def site_files() -> Iterator[SiteFiles]:
    with tempfile.TemporaryDirectory(prefix="mh-site-") as created:
        Path(created).chmod(0o755)
        yield make_site_files(Path(created))


@pytest.fixture(scope="session")
def other_site(site_files: SiteFiles, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Another origin."""
    folder = tmp_path_factory.mktemp("other")
    with site("nginx", folder, site_files.folder, site_files.passwords) as one:
        yield one


@pytest.fixture(scope="session")
def sites(
    site_files: SiteFiles, other_site: Site, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Site]]:
    """The site on each server."""
    with ExitStack() as stack:
        yield {
            server: stack.enter_context(
                site(
                    server,
                    tmp_path_factory.mktemp(server),
                    site_files.folder,
                    site_files.passwords,
                    other=other_site.url,
                )
            )
            for server in SERVERS
        }
