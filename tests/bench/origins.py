"""The origins: nginx, plain, over TLS or with a limit, and one that paces each connection."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import trustme

from bench.access_log import NGINX_FORMAT
from bench.usage import trees
from support.tools import end, free_port, is_listening, wait_until
from support.web_servers import nginx

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    import psutil

    #: Opens an origin, given an empty folder for its state and the folder of its documents.
    OpenOrigin = Callable[[Path, Path], AbstractContextManager["Origin"]]

_PACED = Path(__file__).with_name("paced.py")


@dataclass(frozen=True)
class Origin:
    """A server that runs."""

    base_url: str  #: without a slash at the end
    pid: int
    ca_file: Path | None = None  #: what a client has to trust; None: there is no TLS
    access_log: Path | None = None  #: in `NGINX_FORMAT` of `bench.access_log`
    is_paced: bool = False  #: connections have their own rates

    def url_of(self, name: str) -> str:
        """The URL of a document."""
        return f"{self.base_url}/{name}"

    def processes(self) -> list[psutil.Process]:
        """The processes of the server."""
        return trees([self.pid])

    def begin_run(self) -> None:
        """Close the connections of the last run, where their number decides on their rate."""
        if self.is_paced:
            self.processes()[0].send_signal(signal.SIGUSR1)


@contextmanager
def plain(state: Path, documents: Path, *, extra: str = "", http_extra: str = "") -> Iterator[Origin]:
    """nginx without TLS; `extra` and `http_extra` go into its server and its http block."""
    log = state / "bench.log"
    extra += f"access_log {log} bench;"
    http_extra += f"log_format bench '{NGINX_FORMAT}';"
    with nginx(state, documents, extra=extra, http_extra=http_extra) as base_url:
        yield Origin(base_url, _nginx_pid(state), access_log=log)


@contextmanager
def tls(state: Path, documents: Path) -> Iterator[Origin]:
    """nginx with a certificate of an authority that was made for it."""
    authority = trustme.CA()
    ca_file = state / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    certificate = state / "certificate.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(certificate))
    with nginx(state, documents, certificate=certificate) as base_url:
        yield Origin(base_url, _nginx_pid(state), ca_file)


def limited(bytes_per_second: int, *, connections: int | None = None) -> OpenOrigin:
    """nginx that limits each response; each has a second's worth at once.

    Args:
        bytes_per_second: of each response.
        connections: so many are served to a client at once, and it gets 503 on more; None: any number is.
    """
    extra, http_extra = f"limit_rate {bytes_per_second};\n", ""
    if connections is not None:
        extra += f"limit_conn clients {connections};\n"
        http_extra = "limit_conn_zone $binary_remote_addr zone=clients:1m;\n"

    @contextmanager
    def opened(state: Path, documents: Path) -> Iterator[Origin]:
        with plain(state, documents, extra=extra, http_extra=http_extra) as origin:
            yield origin

    return opened


def paced(bytes_per_second: int, *, slow_one_in: int = 0) -> OpenOrigin:
    """A server whose connections are paced by the kernel.

    Args:
        bytes_per_second: of each connection.
        slow_one_in: of so many connections one gets a tenth of that; 0: none does.
    """

    @contextmanager
    def opened(state: Path, documents: Path) -> Iterator[Origin]:
        port = free_port()
        arguments = [str(documents), str(port), str(bytes_per_second), str(slow_one_in)]
        with (state / "paced.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-P", str(_PACED), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            wait_until(lambda: is_listening(port), what="the paced origin listening")
            yield Origin(f"http://127.0.0.1:{port}", process.pid, is_paced=True)
        finally:
            end(process)

    return opened


def _nginx_pid(state: Path) -> int:
    return int((state / "nginx.pid").read_text())
