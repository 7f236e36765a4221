"""One download: how long it took, what each host got when, and how busy the machine was."""

from __future__ import annotations

import contextlib
import itertools
import json
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bench.usage import cpu_seconds, trees
from scale.scene import submitting
from support.links import received_bytes
from support.tools import need, wait_until
from tasks.jobs import JobRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from scale.origins import Answer, Origin
    from scale.scene import Scene
    from support.worker_host import WorkerHost

_SAMPLE_SECONDS = 0.05
_LONGEST_SECONDS = 300.0


class RunFailed(Exception):
    """A download failed, or took too long; the one argument is the sentence."""


class Sample(NamedTuple):
    """How things stood at a moment of a run."""

    when: float  #: seconds since the epoch
    received_bytes: list[int]  #: of each host, so far
    idle: int  #: processors' time with nothing to do, so far, in the kernel's units
    total: int  #: all of processors' time so far


@dataclass(frozen=True)
class Run:
    """A download that went well."""

    size_bytes: int
    command_seconds: float  #: from the start of the command to its end
    record: JobRecord
    answers: list[Answer]  #: of the origin, to whomever
    cpu_seconds: dict[str, float]  #: by who took them, over the whole command
    samples: list[Sample] = field(repr=False)

    @property
    def seconds(self) -> float:
        """The job's own: from submit to complete, as its record says."""
        return self.record.seconds or 0.0

    @property
    def began(self) -> float:
        """When it was submitted, in seconds since the epoch."""
        return self.record.created_at

    @property
    def idle(self) -> float:
        """The share of all processors' time, from submit to complete, in which they had nothing to do."""
        inside = [one for one in self.samples if self.began <= one.when <= self.began + self.seconds]
        return (inside[-1].idle - inside[0].idle) / max(1, inside[-1].total - inside[0].total)

    def phases(self) -> dict[str, float]:
        """How long each state lasted, in order."""
        times = sorted(self.record.state_times.items(), key=lambda pair: pair[1])
        return {state.value: after - at for (state, at), (_, after) in itertools.pairwise(times)}

    def spans(self) -> dict[str, tuple[float, float]]:
        """For each address when its first answer began, and when its last one ended, in seconds after the submit."""
        found: dict[str, tuple[float, float]] = {}
        for one in self.answers:
            if one.is_of_file:
                began, ended = found.get(one.address, (one.began, one.ended))
                found[one.address] = min(began, one.began), max(ended, one.ended)
        return {address: (first - self.began, last - self.began) for address, (first, last) in found.items()}

    def received(self, host_number: int, parts_count: int) -> list[float]:
        """What a host received in each of so many equal parts of the job's time, in bytes of frames a second."""
        at = [self.began + self.seconds * part / parts_count for part in range(parts_count + 1)]
        so_far = [
            max((one.received_bytes[host_number] for one in self.samples if one.when <= when), default=0)
            for when in at
        ]
        so_far[0] = so_far[0] or self.samples[0].received_bytes[host_number]
        return [(after - before) * parts_count / self.seconds for before, after in itertools.pairwise(so_far)]


def fetch(
    scene: Scene,
    used: Sequence[WorkerHost],
    size_bytes: int,
    *args: str,
    origin: Origin | None = None,
    acts: Sequence[tuple[float, Callable[[], object]]] = (),
    all_end: bool = True,
) -> Run:
    """Submit a file of this size, and wait for it.

    Args:
        scene: where.
        used: whose links are watched.
        size_bytes: of the file.
        args: of the submit.
        origin: whose file; None: that of the origin without limits.
        acts: what to do when a share of the bytes has come to the hosts, in the order of these shares.
        all_end: the origin hears of the end of all connections, and logs them.

    Raises:
        RunFailed: the submit failed, or brought nothing for too long.
    """
    origin = origin or scene.origin
    name = scene.file(size_bytes)
    began, before = time.time(), _cpu(scene, origin)
    process = submitting(scene, f"{origin.url}/{name}", name, *args)
    started = time.perf_counter()
    try:
        samples = _watch(process, used, size_bytes, list(acts))
        seconds = time.perf_counter() - started
        after = _cpu(scene, origin)
    finally:
        process.kill()
        said, complained = process.communicate()
    if process.returncode != 0:
        raise RunFailed(f"submit ended with exit code {process.returncode}: {complained or said}")
    record = JobRecord.model_validate(json.loads(said))
    scene.tidy(name)
    if all_end:
        # A client may have its answer before the log has its line.
        wait_until(
            lambda: sum(one.body_bytes for one in origin.answers(since=began)) >= size_bytes,
            what="all of the file in the origin's log",
        )
    used_seconds = {who: after[who] - before[who] for who in after}
    return Run(size_bytes, seconds, record, origin.answers(since=began), used_seconds, samples)


def _watch(
    process: subprocess.Popen[str],
    used: Sequence[WorkerHost],
    size_bytes: int,
    acts: list[tuple[float, Callable[[], object]]],
) -> list[Sample]:
    """Look at the hosts until the process ends, and act when it is time."""
    ends = time.monotonic() + _LONGEST_SECONDS
    samples: list[Sample] = []
    while process.poll() is None:
        one = Sample(time.time(), [received_bytes(host.host) for host in used], *_processors())
        samples.append(one)
        if acts and sum(one.received_bytes) - sum(samples[0].received_bytes) >= acts[0][0] * size_bytes:
            acts.pop(0)[1]()
        if time.monotonic() > ends:
            raise RunFailed(f"the file had not come after {_LONGEST_SECONDS:g} s")
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_SAMPLE_SECONDS)
    if acts:
        raise RunFailed("the file had come before all was done that was to be done meanwhile")
    return samples


def aria2_seconds(scene: Scene, host: WorkerHost, size_bytes: int) -> float:
    """How long the whole of ``aria2c -x16 -s16`` takes on one host."""
    name = scene.file(size_bytes)
    args = ("--no-conf=true", "-q", "--file-allocation=none", "-x16", "-s16", "-o", name)
    seconds = _timed(scene, host, need("aria2c"), *args, f"{scene.origin.url}/{name}")
    scene.tidy(name)
    return seconds


def curl_bytes_per_second(scene: Scene, host: WorkerHost, size_bytes: int) -> float:
    """What one connection of curl brings to one host."""
    name = scene.file(size_bytes)
    args = ("-q", "-f", "-s", "-o", "/dev/null", f"{scene.origin.url}/{name}")
    return size_bytes / _timed(scene, host, need("curl"), *args)


def _timed(scene: Scene, host: WorkerHost, *args: str) -> float:
    started = time.perf_counter()
    done = subprocess.run(
        host.host.command(*args),
        cwd=scene.cluster.volume,
        env=scene.cluster.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_LONGEST_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise RunFailed(f"{args[0]} ended with exit code {done.returncode}: {done.stderr}")
    return time.perf_counter() - started


def _processors() -> tuple[int, int]:
    """What all processors were idle so far, and what there was of their time, in the kernel's units."""
    first = Path("/proc/stat").read_text().partition("\n")[0]
    # user, nice, system, idle, waiting for disks, interrupts, soft ones, stolen; guests are in user.
    counts = [int(word) for word in first.split()[1:9]]
    return counts[3] + counts[4], sum(counts)


def _cpu(scene: Scene, origin: Origin) -> dict[str, float]:
    """Seconds of processors' time so far, by who took them; what the links take is nobody's."""
    processes = {
        "workers": [host.process.pid for host in scene.hosts if not host.is_down],
        "control": [worker.pid for worker in scene.cluster.workers],
        "Redis": [scene.cluster.redis.process.pid],
        "origin": [origin.pid],
    }
    return {who: cpu_seconds(trees(pids)) for who, pids in processes.items()}
