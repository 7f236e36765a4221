"""Password files as web servers and proxies read them."""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

REALM = "files"


def write_htpasswd(path: Path, user: str, password: str) -> None:
    """For Basic: the SHA-1 form, which nginx, Apache and lighttpd know."""
    digest = base64.b64encode(hashlib.sha1(password.encode()).digest()).decode()
    path.write_text(f"{user}:{{SHA}}{digest}\n")
    path.chmod(0o644)


def write_htdigest(path: Path, user: str, password: str, algorithm: str = "md5") -> None:
    """For Digest: the hash of user, realm and password (RFC 7616, section 3.4.2)."""
    text = f"{user}:{REALM}:{password}".encode()
    path.write_text(f"{user}:{REALM}:{hashlib.new(algorithm, text).hexdigest()}\n")
    path.chmod(0o644)


def write_squid_passwords(path: Path, user: str, password: str) -> None:
    """For squid's basic_ncsa_auth: the one form that hashlib can make."""
    path.write_text(f"{user}:{hashlib.md5(password.encode()).hexdigest()}\n")
    path.chmod(0o644)


def caddy_account(user: str, password: str) -> str:
    """A line of Caddy's `basicauth ... scrypt`, with its default costs."""
    salt = b"sixteen bytes...."
    key = hashlib.scrypt(password.encode(), salt=salt, n=32768, r=8, p=1, dklen=32, maxmem=64 * 1024 * 1024)
    return f"{user} {base64.b64encode(key).decode()} {base64.b64encode(salt).decode()}"
