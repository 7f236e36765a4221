"""Hosts with workers on links that are held to a rate; Redis, origin and control on a network without limits."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bench.place import is_same, wait_until_tidy
from orchestrator.worker import slots_of_processes
from scale.origins import Origin, origin
from support.cluster import COMMAND, Cluster, cluster
from support.files import MIB, make_file
from support.links import hold
from support.namespaces import Network, network
from support.redis_server import redis_server
from support.tools import end
from support.worker_host import WorkerHost
from tasks.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX: str = Settings.model_fields["key_prefix"].default
#: What a warm-up fetches, in chunks of a MiB: something for each process of each worker.
_WARM_UP = "warm-up.bin"
_WARM_UP_BYTES = 64 * MIB


@dataclass
class Scene:
    """All who take part."""

    cluster: Cluster
    net: Network
    origin: Origin
    limiting: Origin  #: the same documents with a limit on each address
    documents: Path
    #: Each has a link of its own; its worker may run or not.
    hosts: list[WorkerHost] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)  #: settings that all workers are given

    def new_host(self) -> WorkerHost:
        """One host more, whose worker does not run yet."""
        host = self.net.add_host()
        one = WorkerHost(
            host,
            {**self.cluster.environment, **self.variables},
            self.cluster.logs / f"{host.name}.log",
            ("--queues", "chunks"),
            processes_count=len(slots_of_processes(Settings.model_fields["concurrency"].default, None)),
            is_down=True,
        )
        one.log.touch()
        self.hosts.append(one)
        return one

    def use(self, count: int, *, bits_per_second: int) -> list[WorkerHost]:
        """Have workers run on so many hosts and no others, warm, with links held to a rate."""
        while len(self.hosts) < count:
            self.new_host()
        used, others = self.hosts[:count], self.hosts[count:]
        for host in others:
            if not host.is_down:
                host.terminate()
                end(host.process)
        cold = [host for host in used if host.is_down]
        for host in cold:
            host.start()
        for host in cold:
            host.wait_until_ready()
        if cold:
            for host in used:
                hold(host.host, bits_per_second=10**10)
            self.warm_up()
        for host in used:
            hold(host.host, bits_per_second=bits_per_second)
        return used

    def warm_up(self) -> None:
        """Have each process fetch something: what it makes when it is first needed is there then."""
        done = self.cluster.run("submit", f"{self.origin.url}/{_WARM_UP}", "-q", "--chunk-size", "1M")
        assert done.returncode == 0, done.stderr
        self.tidy(_WARM_UP)

    def forget_origins(self) -> None:
        """Have what was learned of origins, such as how many connections they allow, be forgotten."""
        with self.cluster.redis.client() as client:
            for key in client.scan_iter(f"{PREFIX}origin:*"):
                client.delete(key)

    def tidy(self, name: str, document: str | None = None) -> None:
        """Compare a published file with the origin's, of the same name if no other is given, and remove it."""
        path = self.cluster.volume / name
        assert is_same(path, self.documents / (document or name)), f"{name} is not what the origin has"
        path.unlink()
        wait_until_tidy(self.cluster.volume)

    def file(self, size_bytes: int) -> str:
        """The name of a document of this size."""
        name = f"{size_bytes // MIB}M.bin"
        if not (self.documents / name).exists():
            make_file(self.documents / name, size_bytes, seed=size_bytes % 1009)
        return name


@contextmanager
def scene(
    folder: Path | None, *, connections: int, bytes_per_second: int, variables: dict[str, str]
) -> Iterator[Scene]:
    """A cluster without hosts yet; all of it is gone afterwards.

    Args:
        folder: where to make the volume; None: in memory, where the origin's documents are in any case.
        connections: of an address, that the limiting origin serves at once.
        bytes_per_second: that it serves each of them with.
        variables: settings that all workers are given.
    """
    with ExitStack() as stack:
        fast = _new_folder(stack, Path("/dev/shm"))
        place = _new_folder(stack, folder) if folder else fast
        documents = fast / "documents"
        documents.mkdir()
        make_file(documents / _WARM_UP, _WARM_UP_BYTES, seed=7)
        net = stack.enter_context(network(0))
        origins = []
        for name, limit in (("plain", None), ("limiting", connections)):
            state = fast / name
            state.mkdir()
            one = origin(
                state, documents, net.origin_address, connections=limit, bytes_per_second=bytes_per_second
            )
            origins.append(stack.enter_context(one))
        # A password: without one Redis answers on loopback only.
        redis = stack.enter_context(redis_server(fast, password="scale", address=net.redis_address))
        one_cluster = stack.enter_context(cluster(redis, place))
        one_cluster.start_worker("--queues", "control,merge", ORCHESTRATOR_HOST_NAME="control", **variables)
        made_scene = Scene(one_cluster, net, *origins, documents, variables=variables)
        stack.callback(lambda: [host.end() for host in made_scene.hosts if not host.is_down])
        yield made_scene


def _new_folder(stack: ExitStack, parent: Path) -> Path:
    path = Path(tempfile.mkdtemp(prefix="manyhands-scale-", dir=parent))
    stack.callback(shutil.rmtree, path, ignore_errors=True)
    # Started by root, nginx reads as a user who may not enter a folder of mode 0700.
    path.chmod(0o755)
    return path


def submitting(scene: Scene, url: str, name: str, *args: str) -> subprocess.Popen[str]:
    """The command line of a submit, as a process that runs."""
    return subprocess.Popen(
        [*COMMAND, "submit", url, "-o", name, "--json", "-q", *args],
        env=scene.cluster.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    )
