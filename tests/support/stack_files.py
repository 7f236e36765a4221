"""The files that a stack of tests is told by: its .env, and an origin beside it in its network."""

from __future__ import annotations

import json
import re
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from support.docker import ROOT
from support.files import make_file
from tasks.sealing import new_key

if TYPE_CHECKING:
    from pathlib import Path

    from support.docker import Images

_NGINX = """
daemon off;
pid /tmp/nginx.pid;
error_log /dev/stderr;
events { worker_connections 512; }
http {
    access_log off;
    server {
        listen 80;
        location / { root /site; }
        location /slow/ { limit_rate 256k; alias /site/; }
        location /slower/ { limit_rate 40k; alias /site/; }
    }
}
"""


@dataclass
class Secrets:
    """What nobody but the containers that need it may see."""

    redis: str = field(default_factory=lambda: secrets.token_hex(24))
    key: str = field(default_factory=new_key)
    flower: str = field(default_factory=lambda: secrets.token_hex(24))

    def all(self) -> list[str]:
        return [self.redis, self.key, self.flower]


def settings(images: Images, secrets: Secrets, flower_port: int, **more: str) -> str:
    """A .env: what .env.example leaves open, and the images that can be had here."""
    values = {
        "REDIS_PASSWORD": secrets.redis,
        "ORCHESTRATOR_SECRET_KEY": secrets.key,
        "FLOWER_PASSWORD": secrets.flower,
        "FLOWER_PORT": str(flower_port),
        "MANYHANDS_IMAGE": images.manyhands,
        "BASE_IMAGE": images.base,
        "REDIS_IMAGE": images.services,
        **more,
    }
    example = (ROOT / ".env.example").read_text()
    for name, value in values.items():
        example, count = re.subn(rf"^{name}=.*$", f"{name}={value}", example, flags=re.MULTILINE)
        assert count == 1, f"{name} is not in .env.example"
    return example


def asked_often(*services: str) -> dict[str, Any]:
    """Services whose health is known soon; Docker asks for the first time after as long as between two times."""
    # Not more often: a check is a process for half a second, and those of six containers would take half a core.
    return {name: {"healthcheck": {"interval": "5s"}} for name in services}


def add_origin(folder: Path, images: Images, sizes_bytes: dict[str, int]) -> dict[str, str]:
    """Write the files of an origin, and the Compose file that has it; digests by name."""
    site = folder / "site"
    site.mkdir(parents=True)
    digests = {
        name: make_file(site / name, size_bytes, seed=seed)
        for seed, (name, size_bytes) in enumerate(sizes_bytes.items())
    }
    (site / "nginx.conf").write_text(_NGINX)
    origin = {
        "image": images.services,
        "command": ["nginx", "-c", "/site/nginx.conf", "-e", "/dev/stderr"],
        "volumes": [f"{site}:/site:ro"],
        "stop_grace_period": "1s",
    }
    services = asked_often("control", "worker", "flower") | {"origin": origin}
    (folder / "origin.yml").write_text(json.dumps({"services": services}))
    return digests
