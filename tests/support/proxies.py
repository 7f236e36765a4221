"""Real proxies out of Debian's packages, squid for HTTP and microsocks for SOCKS5, each with a log of its own."""

from __future__ import annotations

import subprocess
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from support.passwords import write_squid_passwords
from support.tools import end, free_port, is_listening, need, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

_SQUID = """
http_port 127.0.0.1:{port}
visible_hostname proxy.test
pid_filename {folder}/squid.pid
coredump_dir {folder}
cache_log {folder}/cache.log
logformat fields %>Hs %rm %ru %un %>a
access_log stdio:{folder}/access.log fields
buffered_logs off
strip_query_terms off
cache deny all
pinger_enable off
shutdown_lifetime 0 seconds
{access}
"""

_WITH_PASSWORD = """
auth_param basic program /usr/lib/squid/basic_ncsa_auth {folder}/passwords
auth_param basic realm proxy
acl known proxy_auth REQUIRED
http_access allow known
http_access deny all
"""


@dataclass(frozen=True)
class Proxy:
    """Where it is, and what it wrote."""

    address: str  #: host and port
    log_file: Path

    def lines(self) -> list[str]:
        """One for each request or connection so far."""
        return self.log_file.read_text().splitlines() if self.log_file.exists() else []


@contextmanager
def squid(account: tuple[str, str] | None = None) -> Iterator[Proxy]:
    """squid on a port of loopback, which lets in who has this user and password, or everybody."""
    program, port = need("squid"), free_port()
    # Not a folder of pytest's: started by root, squid becomes somebody else, who has to write its logs.
    with tempfile.TemporaryDirectory(prefix="mh-squid-") as created:
        folder = Path(created)
        folder.chmod(0o777)
        access = "http_access allow all"
        if account is not None:
            write_squid_passwords(folder / "passwords", *account)
            access = _WITH_PASSWORD.format(folder=folder)
        config = folder / "squid.conf"
        config.write_text(_SQUID.format(port=port, folder=folder, access=access))
        with (folder / "output.log").open("wb") as output:
            process = subprocess.Popen(
                [program, "-N", "-f", str(config)], stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        try:
            wait_until(lambda: is_listening(port) or process.poll() is not None, what="squid listening")
            assert process.poll() is None, (folder / "output.log").read_text()
            yield Proxy(f"127.0.0.1:{port}", folder / "access.log")
        finally:
            end(process)


@contextmanager
def microsocks(folder: Path, account: tuple[str, str] | None = None) -> Iterator[Proxy]:
    """microsocks on a port of loopback, which lets in who has this user and password, or everybody."""
    program, port = need("microsocks"), free_port()
    args = [program, "-i", "127.0.0.1", "-p", str(port)]
    if account is not None:
        args += ["-u", account[0], "-P", account[1]]
    log_file = folder / f"microsocks-{port}.log"
    with log_file.open("wb") as log:
        process = subprocess.Popen(args, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        wait_until(lambda: is_listening(port), what="microsocks listening")
        yield Proxy(f"127.0.0.1:{port}", log_file)
    finally:
        end(process)
