"""Redis as operators run it: with TLS, with users, with replicas and Sentinels."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import redis
import trustme
from redis.sentinel import Sentinel

from support.redis_server import RedisServer
from support.tools import end, free_port, is_listening, need, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

MASTER = "downloads"
#: After this a server that does not answer is taken for dead. Not less: a busy machine would change masters by itself.
DOWN_MILLISECONDS = 3000


@dataclass(frozen=True)
class Authority:
    """A certificate authority, and certificates that it made."""

    ca: trustme.CA
    folder: Path

    @classmethod
    def new(cls, folder: Path) -> Authority:
        folder.mkdir()
        one = cls(trustme.CA(), folder)
        one.ca.cert_pem.write_to_path(folder / "ca.pem")
        return one

    @property
    def file(self) -> Path:
        return self.folder / "ca.pem"

    def certificate(self, name: str) -> tuple[Path, Path]:
        """A certificate for a host or a client, and its key, in files of their own."""
        cert_file, key_file = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        if not key_file.exists():
            made = self.ca.issue_cert(name)
            cert_file.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
            made.private_key_pem.write_to_path(key_file)
        return cert_file, key_file


@dataclass
class TlsRedis(RedisServer):
    """A Redis that speaks TLS and nothing else."""

    authority: Authority = None  # type: ignore[assignment]
    name: str = "127.0.0.1"  #: for which it has a certificate
    wants_certificate: bool = False

    @property
    def url(self) -> str:
        return super().url.replace("redis://", "rediss://")

    @property
    def settings(self) -> dict[str, str]:
        found = {"redis_ca_file": str(self.authority.file)}
        if self.wants_certificate:
            cert_file, key_file = self.authority.certificate("client.example")
            found |= {"redis_cert_file": str(cert_file), "redis_key_file": str(key_file)}
        return found

    def client(self) -> redis.Redis:
        cert_file, key_file = self.authority.certificate("client.example")
        return redis.Redis(
            port=self.port, password=self.password, decode_responses=True,
            ssl=True, ssl_ca_certs=str(self.authority.file), ssl_check_hostname=False,
            ssl_certfile=str(cert_file), ssl_keyfile=str(key_file),
        )  # fmt: skip

    def arguments(self) -> list[str]:
        cert_file, key_file = self.authority.certificate(self.name)
        return [
            *super().arguments(),
            *("--port", "0", "--tls-port", str(self.port), "--tls-ca-cert-file", str(self.authority.file)),
            *("--tls-cert-file", str(cert_file), "--tls-key-file", str(key_file)),
            *("--tls-auth-clients", "yes" if self.wants_certificate else "no"),
        ]


@dataclass
class AclRedis(RedisServer):
    """A Redis with a user who may do what an ACL says, and an administrator with a password."""

    user: str = "manyhands"
    user_password: str = "user-s3cret"
    rules: str = ""

    @property
    def socket(self) -> Path:
        return self.folder / "redis.sock"

    @property
    def url(self) -> str:
        return f"redis://{self.user}:{self.user_password}@127.0.0.1:{self.port}/0"

    @property
    def socket_url(self) -> str:
        return f"redis+socket://{self.user}:{self.user_password}@{self.socket}"

    def arguments(self) -> list[str]:
        users = self.folder / "users.acl"
        users.write_text(
            f"user default on >{self.password} ~* &* +@all\n"
            f"user {self.user} on >{self.user_password} {self.rules}\n"
        )
        return ["--port", str(self.port), "--unixsocket", str(self.socket), "--aclfile", str(users)]

    def refused(self) -> list[str]:
        """What anybody was refused since the last time, as `user: reason object`."""
        with self.client() as client:
            found = [
                f"{entry['username']}: {entry['reason']} {entry['object']}" for entry in client.acl_log()
            ]
            client.acl_log_reset()
        return found


@contextmanager
def started(server: RedisServer) -> Iterator[RedisServer]:
    """A server that runs for as long as the context."""
    try:
        server.start()
        yield server
    finally:
        if hasattr(server, "process"):
            server.end()


@dataclass
class Watched:
    """Two servers, of which one is the master, and Sentinels that see to that."""

    servers: list[RedisServer]
    folder: Path
    password: str
    sentinel_password: str
    sentinel_ports: list[int] = field(default_factory=lambda: [free_port() for _ in range(3)])
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.sentinel_ports)
        return f"sentinel://:{self.password}@{hosts}/0"

    @property
    def settings(self) -> dict[str, str]:
        return {"redis_sentinel_master": MASTER, "redis_sentinel_password": self.sentinel_password}

    def sentinel(self, number: int = 0) -> redis.Redis:
        return redis.Redis(
            port=self.sentinel_ports[number], password=self.sentinel_password, decode_responses=True
        )

    def client(self) -> redis.Redis:
        """A client of whoever is the master."""
        sentinels = Sentinel(
            [("127.0.0.1", port) for port in self.sentinel_ports],
            sentinel_kwargs={"password": self.sentinel_password, "retry": None},
        )
        return sentinels.master_for(MASTER, password=self.password, decode_responses=True)

    def master(self) -> RedisServer:
        """The server that the Sentinels call master."""
        _, port = self.sentinel().sentinel_get_master_addr_by_name(MASTER)
        return next(server for server in self.servers if server.port == int(port))

    def other(self, server: RedisServer) -> RedisServer:
        return next(each for each in self.servers if each is not server)

    def follow(self, server: RedisServer) -> None:
        """Have a server be the other's replica, as it would be after its start."""
        with server.client() as client:
            client.config_set("masterauth", self.password)
            client.replicaof("127.0.0.1", self.other(server).port)

    def is_replicated(self) -> bool:
        """Whether all Sentinels know each other and a replica that has what the master has."""
        for number in range(len(self.sentinel_ports)):
            with self.sentinel(number) as client:
                state = client.sentinel_master(MASTER)
                replicas = client.sentinel_slaves(MASTER)
            good = [each for each in replicas if each["master-link-status"] == "ok"]
            if state["num-other-sentinels"] != len(self.sentinel_ports) - 1 or len(good) != 1:
                return False
        return True

    def start(self) -> None:
        first, second = self.servers
        for server in self.servers:
            server.start()
            server.client().config_set("masterauth", self.password)
        self.follow(second)
        wait_until(
            lambda: second.client().info("replication")["master_link_status"] == "up",
            what="the replica's link",
        )
        for port in self.sentinel_ports:
            self._start_sentinel(port, first.port)
        wait_until(self.is_replicated, seconds=60, what="Sentinels that know each other")

    def _start_sentinel(self, port: int, master_port: int) -> None:
        config = self.folder / f"sentinel-{port}.conf"
        config.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {self.folder}\n"
            f"sentinel monitor {MASTER} 127.0.0.1 {master_port} 2\n"
            f"sentinel auth-pass {MASTER} {self.password}\n"
            f"sentinel down-after-milliseconds {MASTER} {DOWN_MILLISECONDS}\n"
            f"sentinel failover-timeout {MASTER} 10000\n"
            f"requirepass {self.sentinel_password}\nsentinel sentinel-pass {self.sentinel_password}\n"
        )
        program = need("redis-server", "valkey-server")
        with (self.folder / f"sentinel-{port}.log").open("ab") as log:
            self.processes.append(
                subprocess.Popen([program, str(config), "--sentinel"], stdout=log, stderr=log)
            )
        wait_until(lambda: is_listening(port), what="a Sentinel listening")

    def end(self) -> None:
        for process in self.processes:
            end(process)
        for server in self.servers:
            if hasattr(server, "process"):
                server.end()


@contextmanager
def tls_sentinel(server: TlsRedis, folder: Path) -> Iterator[str]:
    """A Sentinel that speaks TLS, of a master that does; yields the URL that leads to it."""
    port = free_port()
    cert_file, key_file = server.authority.certificate("127.0.0.1")
    config = folder / "sentinel.conf"
    config.write_text(
        f"port 0\ntls-port {port}\nbind 127.0.0.1\ndir {folder}\n"
        f"tls-cert-file {cert_file}\ntls-key-file {key_file}\ntls-ca-cert-file {server.authority.file}\n"
        f"tls-auth-clients no\ntls-replication yes\n"
        f"sentinel monitor {MASTER} 127.0.0.1 {server.port} 1\n"
    )
    with (folder / "sentinel.log").open("ab") as log:
        process = subprocess.Popen(
            [need("redis-server", "valkey-server"), str(config), "--sentinel"], stdout=log, stderr=log
        )
    try:
        wait_until(lambda: is_listening(port), what="a Sentinel listening")
        yield f"sentinels://127.0.0.1:{port}/0"
    finally:
        end(process)


@contextmanager
def watched(folder: Path, *, password: str, sentinel_password: str) -> Iterator[Watched]:
    """A master, its replica and three Sentinels, for as long as the context."""
    folder.mkdir()
    servers = []
    for name in ("one", "two"):
        (folder / name).mkdir()
        servers.append(RedisServer(free_port(), folder / name, password))
    both = Watched(servers, folder, password, sentinel_password)
    try:
        both.start()
        yield both
    finally:
        both.end()
