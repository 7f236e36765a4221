"""Many small files at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.figures import Figure, of_peers_time, ratios_to_peers
from bench.peers import LeftOut, program_path
from bench.place import place, warm_cluster
from bench.programs import LONGEST_RUN_SECONDS, CommandLine, WarmCluster
from bench.rounds import run_rounds
from support.cluster import clean_environment

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.place import Place, Site
    from bench.programs import Program
    from bench.rounds import Series
    from orchestrator import Orchestrator

_AT_ONCE = "16"


def submit_batch(orchestrator: Orchestrator, urls: Sequence[str]) -> None:
    """Submit all and wait for all: the one place that knows how a batch is submitted."""
    records = orchestrator.wait_for_all(orchestrator.submit_many(urls, sync=False), LONGEST_RUN_SECONDS)
    bad = [record for record in records if record.state != "complete"]
    if bad:
        raise RuntimeError(f"{len(bad)} jobs are not complete, such as {bad[0]}")


def measure(
    site: Site, *, size_bytes: int, files_count: int, runs_count: int, say: Callable[[str], object]
) -> list[Series]:
    """Measure programs in turn; for the other arguments see `throughput.measure`.

    Args:
        size_bytes: of each file.
        files_count: how many.
    """
    say("making the files")
    with (
        place(site, size_bytes, files_count=files_count) as where,
        warm_cluster(where) as cluster,
        cluster.orchestrator() as orchestrator,
    ):
        urls = [where.origin.url_of(name) for name in where.files]
        warm = WarmCluster(
            "warm",
            "manyhands, warm cluster, sync off",
            cluster,
            where.origin,
            lambda: submit_batch(orchestrator, urls),
        )
        return run_rounds([warm, *_peers(where, urls, say)], where, runs_count, say)


def _peers(where: Place, urls: Sequence[str], say: Callable[[str], object]) -> list[Program]:
    lists = where.new_folder("lists")
    (lists / "aria2.txt").write_text("".join(f"{url}\n" for url in urls))
    config = (f'url = "{url}"\noutput = "{name}"\n' for url, name in zip(urls, where.files, strict=True))
    (lists / "curl.txt").write_text("".join(config))
    aria2 = ("--no-conf=true", "-q", "--file-allocation=none", f"-j{_AT_ONCE}")
    commands = {
        f"aria2c -j{_AT_ONCE} -i": ("aria2c", *aria2, "-i", str(lists / "aria2.txt")),
        f"aria2c -j{_AT_ONCE} -Z": ("aria2c", *aria2, "-Z", *urls),
        f"curl --parallel-max {_AT_ONCE}": (
            "curl", "-q", "-f", "-s", "--parallel", "--parallel-max", _AT_ONCE, "-K", str(lists / "curl.txt"),
        ),
    }  # fmt: skip
    found: list[Program] = []
    for number, (shown_as, (program, *rest)) in enumerate(commands.items()):
        try:
            arguments = (program_path(program), *rest)
        except LeftOut as why:
            say(f"left out: {why}")
        else:
            folder = where.new_folder(f"peer-{number}")
            found.append(
                CommandLine(shown_as, shown_as, folder, where.origin, arguments, clean_environment())
            )
    return found


def figures(all_series: Sequence[Series]) -> list[Figure]:
    """The ratios to the peers."""
    return ratios_to_peers(all_series[0], all_series, of_peers_time("batch"))
