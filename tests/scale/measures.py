"""The measures: more hosts, an origin that limits each address, hosts that are slow, cut off, or added."""

from __future__ import annotations

import dataclasses
import math
import re
import statistics
import time
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

from scale.runs import aria2_seconds, curl_bytes_per_second, fetch
from scale.verdicts import Verdict
from support.files import MIB
from support.links import hold, shaped_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from scale.runs import Run
    from scale.scene import Scene
    from support.worker_host import WorkerHost

#: A network whose limits are the origin's, not the links'.
_WIDE_BITS_PER_SECOND = 10**9
_CALIBRATION_BYTES = 32 * MIB
#: A run's time is shown in so many parts.
_PARTS = 12
_READY = re.compile(r"^\[(\S+ \S+): .*@\S+ ready\.$", re.MULTILINE)


@dataclass(frozen=True)
class Plan:
    """How it is measured."""

    scene: Scene
    size_bytes: int
    bits_per_second: int  #: of a host's link
    rounds_count: int
    submit_args: tuple[str, ...]
    say: Callable[[str], object]

    def run(self, what: str, used: Sequence[WorkerHost], **options: object) -> Run:
        """Fetch the file once, and tell how that went."""
        size_bytes = int(options.pop("size_bytes", self.size_bytes))  # type: ignore[call-overload]
        run = fetch(self.scene, used, size_bytes, *self.submit_args, **options)  # type: ignore[arg-type]
        self.say(f"{what}: {described(run, used)}")
        return run


def at_half(plan: Plan) -> Plan:
    """The same with links of half the speed, where this machine's processors are no limit."""
    return dataclasses.replace(plan, bits_per_second=plan.bits_per_second // 2)


def described(run: Run, used: Sequence[WorkerHost]) -> str:
    """A run in a few lines: where its time went."""
    phases = ", ".join(f"{name} {seconds:.2f}" for name, seconds in run.phases().items())
    cpu = ", ".join(f"{who} {seconds:.2f}" for who, seconds in run.cpu_seconds.items())
    lines = [
        f"{run.seconds:.2f} s (command {run.command_seconds:.2f} s); {phases}; idle {run.idle:.0%}; CPU s: {cpu}"
    ]
    spans = run.spans()
    for number, host in enumerate(used):
        share = run.record.workers.get(host.name)
        first, _ = spans.get(host.host.address, (0.0, 0.0))
        rates = " ".join(f"{rate * 8 / 1e6:.0f}" for rate in run.received(number, _PARTS))
        asked = sum(answer.address == host.host.address and answer.is_of_file for answer in run.answers)
        brought = share.bytes / MIB if share else 0.0
        lines.append(
            f"    {host.name}: first byte {first:.2f} s, {brought:.1f} MiB, {asked} answers, Mbit/s {rates}"
        )
    return "\n".join(lines)


def calibrate(plan: Plan) -> tuple[float, list[Verdict]]:
    """What one curl on one host brings in bytes a second, and whether the link is held to its rate."""
    host = plan.scene.use(1, bits_per_second=plan.bits_per_second)[0]
    plan.scene.file(_CALIBRATION_BYTES)
    before, began = shaped_bytes(host.host), time.perf_counter()
    rate = curl_bytes_per_second(plan.scene, host, _CALIBRATION_BYTES)
    framed = (shaped_bytes(host.host) - before) * 8 / (time.perf_counter() - began)
    share = framed / plan.bits_per_second
    shown = f"{framed / 1e6:.2f} Mbit/s of frames, {rate / 1e6:.2f} MB/s of the file"
    plan.say(f"one curl: {shown}")
    return rate, [
        Verdict("one curl: its link's rate over what that is held to", share, shown, "at least", 0.98),
        Verdict("the same, at most", share, shown, "at most", 1.02),
    ]


def more_hosts(plan: Plan, counts: Sequence[int], *, target: float) -> list[Verdict]:
    """The same file with more and more hosts, and with aria2 on one of them."""
    runs: dict[int, list[Run]] = {count: [] for count in counts}
    peer = []
    for number in range(plan.rounds_count):
        # To and fro: what drifts on the machine hits all alike, and few workers have to start anew.
        for count in counts if number % 2 == 0 else reversed(counts):
            used = plan.scene.use(count, bits_per_second=plan.bits_per_second)
            runs[count].append(plan.run(f"{count} hosts", used))
            if count == counts[0]:
                peer.append(aria2_seconds(plan.scene, used[0], plan.size_bytes))
                plan.say(f"aria2 -x16 on one host: {peer[-1]:.2f} s")
    one = statistics.median(run.seconds for run in runs[counts[0]])
    command_one = statistics.median(run.command_seconds for run in runs[counts[0]])
    mbits = plan.bits_per_second / 1e6
    verdicts = []
    for count in counts:
        seconds = statistics.median(run.seconds for run in runs[count])
        commands = statistics.median(run.command_seconds for run in runs[count])
        idle = statistics.median(run.idle for run in runs[count])
        shown = (
            f"{one / seconds:.2f} times as fast as one, {seconds:.2f} s (whole commands: "
            f"{command_one / commands:.2f} times, {commands:.2f} s), idle {idle:.0%}"
        )
        is_last = count == counts[-1]
        verdicts.append(
            Verdict(
                f"{count} hosts at {mbits:g} Mbit/s, {plan.size_bytes // MIB} MiB",
                one / seconds,
                shown,
                "at least" if is_last else None,
                target,
            )
        )
    peer_seconds = statistics.median(peer)
    shown = f"{peer_seconds:.2f} s: {peer_seconds / one:.2f} of one host, {peer_seconds / seconds:.2f} of {counts[-1]}"
    return [*verdicts, Verdict("aria2 -x16 -s16 on one such host", peer_seconds, shown)]


def each_address(plan: Plan) -> list[Verdict]:
    """An origin that limits each address: one host against four, with twice the file.

    Sixteen slow connections have only two chunks of 8 MiB each of 256 MiB, and how they end would be most of it.
    """
    counts, size_bytes = (1, 4), 2 * plan.size_bytes
    found: dict[int, list[float]] = {count: [] for count in counts}
    for number in range(plan.rounds_count):
        for count in counts if number % 2 == 0 else counts[::-1]:
            used = plan.scene.use(count, bits_per_second=_WIDE_BITS_PER_SECOND)
            plan.scene.forget_origins()
            run = plan.run(
                f"limited addresses, {count} hosts", used, origin=plan.scene.limiting, size_bytes=size_bytes
            )
            refused = sum(answer.status == 503 for answer in run.answers)
            plan.say(f"    refused {refused} times")
            found[count].append(run.seconds)
    one, four = (statistics.median(found[count]) for count in counts)
    shown = f"{one / four:.2f} times as fast ({one:.2f} and {four:.2f} s)"
    return [
        Verdict("an origin that limits each address: 4 hosts over one", one / four, shown, "at least", 3.8)
    ]


def one_slow(plan: Plan, rate: float) -> list[Verdict]:
    """One of four hosts at a tenth of the others' speed."""
    ratios, ideal = [], plan.size_bytes / (3.1 * rate)
    for _ in range(plan.rounds_count):
        used = plan.scene.use(4, bits_per_second=plan.bits_per_second)
        hold(used[0].host, bits_per_second=plan.bits_per_second // 10)
        ratios.append(plan.run("one of 4 slow", used).seconds / ideal)
    ratio = statistics.median(ratios)
    shown = f"{ratio:.2f} of the ideal {ideal:.2f} s"
    return [Verdict("one of 4 hosts at a tenth of the speed", ratio, shown, "at most", 1.15)]


def one_cut(plan: Plan, rate: float) -> list[Verdict]:
    """One of four hosts is cut off when half of the file has come."""
    late = []
    for _ in range(plan.rounds_count):
        used = plan.scene.use(4, bits_per_second=plan.bits_per_second)
        when = []

        def cut(host: WorkerHost = used[0], when: list[float] = when) -> None:
            when.append(time.time())
            host.host.cut_all()

        try:
            run = plan.run("one of 4 cut", used, acts=[(0.5, cut)], all_end=False)
        finally:
            used[0].host.mend_all()
            used[0].kill()
        cut_after = when[0] - run.began
        ideal = cut_after + (plan.size_bytes - 4 * rate * cut_after) / (3 * rate)
        late.append(run.seconds - ideal)
        plan.say(f"    cut after {cut_after:.2f} s; ideal {ideal:.2f} s, {late[-1]:.2f} s more")
    seconds = statistics.median(late)
    shown = f"{seconds:.1f} s more than the ideal (at most {max(late):.1f})"
    return [Verdict("one of 4 hosts cut off half-way, seconds", seconds, shown, "at most", 10.0)]


def some_added(plan: Plan, size_bytes: int, *, at_once: bool) -> list[Verdict]:
    """Four hosts are added to four while a job runs: how soon each gets its first byte of it.

    Args:
        plan: how it is measured.
        size_bytes: of the file.
        at_once: all four start together, and share this machine's processors for it; else each has them for itself.
    """
    since_ready: list[float] = []
    since_start: list[float] = []
    shares = (0.1, 0.1, 0.1, 0.1) if at_once else (0.05, 0.15, 0.25, 0.35)
    how = "at once" if at_once else "one after the other"
    for _ in range(plan.rounds_count):
        plan.scene.use(8, bits_per_second=plan.bits_per_second)
        old = plan.scene.use(4, bits_per_second=plan.bits_per_second)
        new = plan.scene.hosts[4:8]
        started: list[float] = []

        def add(host: WorkerHost, started: list[float] = started) -> None:
            started.append(time.time())
            host.start()

        logged = [len(host.log.read_text()) for host in new]
        acts = [(share, partial(add, host)) for share, host in zip(shares, new, strict=True)]
        run = plan.run(f"4 hosts added to 4 {how}", [*old, *new], acts=acts, size_bytes=size_bytes)
        for host, start, skipped in zip(new, started, logged, strict=True):
            # Never: it was not ready, or got nothing, before the job was done.
            first, ready = _first_byte(run, host), _first_ready(host.log.read_text()[skipped:])
            since_ready.append(first - ready)
            since_start.append(first - start)
            plan.say(
                f"    {host.name}: {since_start[-1]:.2f} s from its start, {since_ready[-1]:.2f} s from ready"
            )
    shown = (
        f"{max(since_ready):.2f} s from Celery's ready (median {statistics.median(since_ready):.2f}); "
        f"from the start of the process {max(since_start):.2f} s (median {statistics.median(since_start):.2f})"
    )
    what = f"4 hosts added to 4, {how}: the last one's first byte, seconds"
    return [Verdict(what, max(since_ready), shown, "at most", 2.0)]


def _first_byte(run: Run, host: WorkerHost) -> float:
    """When the origin began to answer a host, in seconds since the epoch; infinite if it did not."""
    span = run.spans().get(host.host.address)
    return math.inf if span is None else run.began + span[0]


def _first_ready(log: str) -> float:
    """When the first of a worker's processes said that it is ready, in seconds since the epoch; 0 if none did."""
    times = [datetime.strptime(each, "%Y-%m-%d %H:%M:%S,%f").timestamp() for each in _READY.findall(log)]
    return min(times, default=0.0)
