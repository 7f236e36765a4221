"""Real web servers out of Debian's packages, with their documents in a folder.

Each takes more of its own configuration as `extra`, and writes the log that `support.access_log` reads.
"""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import requests

from support.access_log import APACHE_FORMAT, NGINX_FORMAT
from support.tools import end, free_port, is_listening, need, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_NGINX = """
daemon off;
worker_processes 2;
pid {folder}/nginx.pid;
error_log {folder}/nginx-error.log;
events {{ worker_connections 512; }}
http {{
    log_format fields '{log_format}';
    access_log {folder}/access.log fields;
    client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
    uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
    sendfile on;
    {http_extra}
    server {{
        listen 127.0.0.1:{port}{tls}{options};
        root {documents};
        location = {status_path} {{ stub_status; access_log off; }}
        {extra}
    }}
}}
"""
_STATUS_PATH = "/nginx-status"

_APACHE = """
ServerRoot {folder}
ServerName 127.0.0.1
Listen 127.0.0.1:{port}
PidFile {folder}/apache.pid
ErrorLog {folder}/apache-error.log
{load}
LogFormat "{log_format}" fields
CustomLog {folder}/access.log fields
TypesConfig /dev/null
DocumentRoot {documents}
<Directory {documents}>
    Require all granted
</Directory>
{extra}
"""

_APACHE_MODULES = (
    "mpm_event", "authn_core", "authn_file", "authz_core", "authz_user", "auth_basic", "auth_digest",
    "filter", "deflate", "mime", "env", "headers", "alias", "ratelimit",
)  # fmt: skip

_LIGHTTPD = """
server.bind = "127.0.0.1"
server.port = {port}
server.document-root = "{documents}"
server.errorlog = "{folder}/lighttpd-error.log"
server.modules = (
    "mod_accesslog", "mod_auth", "mod_authn_file", "mod_deflate", "mod_redirect", "mod_setenv"
)
accesslog.filename = "{folder}/access.log"
accesslog.format = "{log_format}"
{extra}
"""

# Its log has "REDACTED" for credentials unless it is told otherwise.
_CADDY = """
{{
    admin off
    auto_https off
    servers {{
        log_credentials
    }}
}}
{scheme}://127.0.0.1:{port}, {scheme}://localhost:{port} {{
    bind 127.0.0.1
    {tls}
    root * {documents}
    log {{
        output file {folder}/access.log
        format json
    }}
    {extra}
    file_server
}}
"""


@contextmanager
def _running(args: list[str], port: int, folder: Path, **variables: str) -> Iterator[None]:
    """A server in the foreground, until the end of the block."""
    with (folder / "output.log").open("wb") as output:
        process = subprocess.Popen(
            args, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env={**os.environ, **variables}
        )
    try:
        wait_until(
            lambda: is_listening(port) or process.poll() is not None, what=f"{args[0]} listening on its port"
        )
        assert process.poll() is None, (folder / "output.log").read_text()
        yield
    finally:
        end(process)


@contextmanager
def nginx(
    folder: Path,
    documents: Path,
    *,
    extra: str = "",
    http_extra: str = "",
    certificate: Path | None = None,
    listen_options: str = "",
) -> Iterator[str]:
    """nginx on a port of loopback; yields its base URL, without a slash at the end.

    Args:
        folder: where it may write.
        documents: what it serves.
        extra: directives of its server block.
        http_extra: directives of its http block.
        certificate: PEM with the key; makes it https.
        listen_options: of its socket on loopback.
    """
    program, port = need("nginx"), free_port()
    config = folder / "nginx.conf"
    if certificate is not None:
        extra += f"\nssl_certificate {certificate}; ssl_certificate_key {certificate};"
    config.write_text(
        _NGINX.format(
            folder=folder, documents=documents, port=port, extra=extra, http_extra=http_extra,
            log_format=NGINX_FORMAT, tls=" ssl" if certificate else "", status_path=_STATUS_PATH,
            options=f" {listen_options}",
        )
    )  # fmt: skip
    with _running(
        [program, "-p", str(folder), "-e", str(folder / "nginx-start.log"), "-c", str(config)], port, folder
    ):
        yield f"http{'s' if certificate else ''}://127.0.0.1:{port}"


def wait_until_let_go(nginx_url: str) -> None:
    """Wait until nginx has noticed that its clients are gone: it logs what it sent to a killed one only then."""

    def is_alone() -> bool:
        status = requests.get(nginx_url + _STATUS_PATH, timeout=10)
        status.raise_for_status()
        return status.text.startswith("Active connections: 1 ")  # this one

    wait_until(is_alone, what="nginx letting go of its clients")


@contextmanager
def apache(folder: Path, documents: Path, *, extra: str = "") -> Iterator[str]:
    """Apache on a port of loopback, with `extra` directives; yields its base URL, without a slash at the end."""
    program, port = need("apache2", "httpd"), free_port()
    config = folder / "apache.conf"
    load = "\n".join(
        f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so" for name in _APACHE_MODULES
    )
    config.write_text(
        _APACHE.format(
            folder=folder, documents=documents, port=port, extra=extra, load=load, log_format=APACHE_FORMAT
        )
    )
    with _running([program, "-f", str(config), "-D", "FOREGROUND"], port, folder):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def lighttpd(folder: Path, documents: Path, *, extra: str = "") -> Iterator[str]:
    """lighttpd on a port of loopback, with `extra` settings; yields its base URL, without a slash at the end."""
    program, port = need("lighttpd"), free_port()
    config = folder / "lighttpd.conf"
    config.write_text(
        _LIGHTTPD.format(folder=folder, documents=documents, port=port, extra=extra, log_format=APACHE_FORMAT)
    )
    with _running([program, "-D", "-f", str(config)], port, folder):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def caddy(
    folder: Path, documents: Path, *, extra: str = "", certificate: Path | None = None
) -> Iterator[str]:
    """Caddy on a port of loopback; arguments and what it yields are nginx's."""
    program, port = need("caddy"), free_port()
    scheme = "https" if certificate else "http"
    config = folder / "Caddyfile"
    config.write_text(
        _CADDY.format(
            folder=folder, documents=documents, port=port, extra=extra, scheme=scheme,
            tls=f"tls {certificate} {certificate}" if certificate else "",
        )
    )  # fmt: skip
    args = [program, "run", "--config", str(config), "--adapter", "caddyfile"]
    with _running(
        args, port, folder, HOME=str(folder), XDG_DATA_HOME=str(folder), XDG_CONFIG_HOME=str(folder)
    ):
        yield f"{scheme}://127.0.0.1:{port}"
