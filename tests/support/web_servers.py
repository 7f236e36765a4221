"""Real web servers out of Debian's packages, with their documents in a folder."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

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
    access_log {folder}/nginx-access.log;
    client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
    uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
    sendfile on;
    {around}
    server {{
        listen 127.0.0.1:{port};
        root {documents};
        {extra}
    }}
}}
"""

_APACHE = """
ServerRoot {folder}
ServerName 127.0.0.1
Listen 127.0.0.1:{port}
PidFile {folder}/apache.pid
ErrorLog {folder}/apache-error.log
LoadModule mpm_event_module {modules}/mod_mpm_event.so
LoadModule authz_core_module {modules}/mod_authz_core.so
DocumentRoot {documents}
<Directory {documents}>
    Require all granted
</Directory>
"""


@contextmanager
def nginx(folder: Path, documents: Path, *, extra: str = "", around: str = "") -> Iterator[str]:
    """nginx on a port of loopback; yields its base URL, without a slash at the end.

    Args:
        folder: for its state and logs.
        documents: what it serves.
        extra: directives of the server.
        around: directives of the whole program, such as zones.
    """
    program, port = need("nginx"), free_port()
    config = folder / "nginx.conf"
    config.write_text(
        _NGINX.format(folder=folder, documents=documents, port=port, extra=extra, around=around)
    )
    process = subprocess.Popen(
        [program, "-p", str(folder), "-e", str(folder / "nginx-start.log"), "-c", str(config)]
    )
    try:
        wait_until(lambda: is_listening(port), what="nginx listening")
        yield f"http://127.0.0.1:{port}"
    finally:
        end(process)


@contextmanager
def apache(folder: Path, documents: Path) -> Iterator[str]:
    """Apache on a port of loopback; yields its base URL, without a slash at the end."""
    program, port = need("apache2", "httpd"), free_port()
    config = folder / "apache.conf"
    config.write_text(
        _APACHE.format(folder=folder, documents=documents, port=port, modules="/usr/lib/apache2/modules")
    )
    process = subprocess.Popen([program, "-f", str(config), "-D", "FOREGROUND"])
    try:
        wait_until(lambda: is_listening(port), what="Apache listening")
        yield f"http://127.0.0.1:{port}"
    finally:
        end(process)
