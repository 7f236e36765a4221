"""Programs in turn, round after round, so that what drifts on the machine hits all alike."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bench.order import balanced
from bench.place import is_same
from bench.programs import RunFailed, clean
from bench.usage import cpu_seconds
from support.files import sha256_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.place import Place
    from bench.programs import Program
    from bench.usage import Usage


@dataclass(frozen=True)
class Series:
    """All counted runs of one program."""

    name: str
    shown_as: str
    is_own: bool  #: this program, not a peer
    runs: list[Usage] = field(default_factory=list)
    after: list[str] = field(default_factory=list)  #: for each run, the program that ran before it

    def values(self, of: str) -> list[float]:
        """One field of `Usage`, for each run that has it."""
        return [float(value) for run in self.runs if (value := getattr(run, of)) is not None]


def run_rounds(
    chosen: Sequence[Program], where: Place, runs_count: int, say: Callable[[str], object]
) -> list[Series]:
    """Run each program once a round; the first round is a warm-up and is not counted.

    Raises:
        RunFailed: a program failed, or what it brought is not what the origin has.
    """
    series = {each.name: Series(each.name, each.shown_as, each.is_own) for each in chosen}
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


def _run_and_check(program: Program, where: Place) -> Usage:
    clean(program)
    program.origin.begin_run()
    before_seconds = cpu_seconds(program.origin.processes())
    usage = program.run()
    origin_seconds = cpu_seconds(program.origin.processes()) - before_seconds
    try:
        for name in where.files:
            _check(program, where, name)
    finally:
        clean(program)
    return dataclasses.replace(usage, origin_cpu_seconds=origin_seconds)


def _check(program: Program, where: Place, name: str) -> None:
    result, origin_file = program.folder / name, where.origin_file(name)
    if not result.is_file():
        raise RunFailed(f"{program.shown_as} left no {name}.")
    if is_same(result, origin_file):
        return
    size_bytes, digest = result.stat().st_size, sha256_of(result)
    raise RunFailed(
        f"{program.shown_as} brought {size_bytes} bytes with SHA-256 {digest} for {name}; "
        f"the origin has {origin_file.stat().st_size} bytes with {where.files[name]}."
    )
