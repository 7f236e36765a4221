"""The main measure: one large file, several programs, round after round."""

from __future__ import annotations

import dataclasses
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bench import programs
from bench.order import balanced
from bench.place import is_same, place, warm_cluster
from bench.programs import OWN_PROGRAMS, RunFailed
from bench.usage import cpu_seconds
from support.files import sha256_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from bench.place import Place
    from bench.programs import Program
    from bench.usage import Usage


@dataclass(frozen=True)
class Series:
    """All counted runs of one program."""

    name: str
    shown_as: str
    runs: list[Usage] = field(default_factory=list)
    after: list[str] = field(default_factory=list)  #: for each run, the program that ran before it

    @property
    def is_own(self) -> bool:
        """Whether it is this program, not a peer."""
        return self.name in OWN_PROGRAMS


def measure(
    parent: Path | None,
    *,
    size_bytes: int,
    runs_count: int,
    names: Sequence[str],
    say: Callable[[str], object],
) -> list[Series]:
    """Measure programs in turn, round after round, so that what drifts hits all alike.

    Args:
        parent: where the file and the volume are.
        size_bytes: of the file.
        runs_count: how many runs are counted; one more of each, the first, is not.
        names: which programs; one that is not on the machine is left out.
        say: is told what happens.

    Raises:
        RunFailed: a program failed, or what it brought is not what the origin has.
    """
    with ExitStack() as stack:
        say("making the file")
        where = stack.enter_context(place(parent, size_bytes))
        chosen = _prepare(stack, where, names, say)
        series = {each.name: Series(each.name, each.shown_as) for each in chosen}
        before = ""
        for number in range(runs_count + 1):
            for each in balanced(chosen, number):
                usage = _run_and_check(each, where)
                kind = f"run {number} of {runs_count}" if number else "warm-up"
                say(f"{kind}: {each.shown_as}: {usage.wall_seconds:.2f} s, CPU {usage.cpu_seconds:.2f} s")
                if number:
                    series[each.name].runs.append(usage)
                    series[each.name].after.append(before)
                before = each.name
        return list(series.values())


def _prepare(
    stack: ExitStack, where: Place, names: Sequence[str], say: Callable[[str], object]
) -> list[Program]:
    chosen: list[Program] = []
    warm_names = {"warm", "warm-sync"} & set(names)
    if warm_names:
        cluster = stack.enter_context(warm_cluster(where))
        orchestrator = stack.enter_context(cluster.orchestrator())
    for name in dict.fromkeys(names):
        if name in warm_names:
            chosen.append(programs.warm(cluster, orchestrator, where.url, sync=name == "warm-sync"))
        elif name == "embedded":
            chosen.append(programs.embedded(where))
        else:
            found = programs.peer(name, where)
            if found is None:
                say(f"{name} is not on this machine: left out")
            else:
                chosen.append(found)
    return chosen


def _run_and_check(program: Program, where: Place) -> Usage:
    program.clean()
    before_seconds = cpu_seconds(where.origin_processes())
    usage = program.run()
    origin_seconds = cpu_seconds(where.origin_processes()) - before_seconds
    try:
        _check(program, where)
    finally:
        program.clean()
    return dataclasses.replace(usage, origin_cpu_seconds=origin_seconds)


def _check(program: Program, where: Place) -> None:
    if not program.result.is_file():
        raise RunFailed(f"{program.shown_as} left no file.")
    if is_same(program.result, where.origin_file):
        return
    size_bytes, digest = program.result.stat().st_size, sha256_of(program.result)
    raise RunFailed(
        f"{program.shown_as} brought {size_bytes} bytes with SHA-256 {digest}; "
        f"the origin has {where.size_bytes} bytes with {where.sha256}."
    )
