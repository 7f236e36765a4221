"""This program: on a warm cluster through the Python API, and its command line without a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.place import RESULT
from bench.programs import LONGEST_RUN_SECONDS, CommandLine, WarmCluster
from orchestrator.access import Access
from support.cluster import COMMAND, clean_environment

if TYPE_CHECKING:
    from bench.origins import Origin
    from bench.place import Place
    from orchestrator import Orchestrator
    from support.cluster import Cluster

OWN_PROGRAMS = ("warm", "warm-sync", "embedded")


def warm(
    cluster: Cluster,
    orchestrator: Orchestrator,
    origin: Origin,
    *,
    name: str = "warm",
    shown_as: str = "manyhands, warm cluster, sync off",
    **options: Any,
) -> WarmCluster:
    """A job on a warm cluster; `options` are those of `Orchestrator.submit`, without sync if that is not given."""
    if origin.ca_file is not None:
        options["access"] = Access(ca_file=origin.ca_file)
    options.setdefault("sync", False)

    def work() -> None:
        job = orchestrator.submit(origin.url_of(RESULT), RESULT, **options)
        job.wait(LONGEST_RUN_SECONDS)

    return WarmCluster(name, shown_as, cluster, origin, work)


def warm_sync(cluster: Cluster, orchestrator: Orchestrator, origin: Origin, **options: Any) -> WarmCluster:
    """The same with the data on disk before the file is visible."""
    shown_as = "manyhands, warm cluster, sync on"
    return warm(cluster, orchestrator, origin, name="warm-sync", shown_as=shown_as, sync=True, **options)


def embedded(where: Place, *, sync: bool = False, layout: str = "auto") -> CommandLine:
    """The command line without a cluster: it starts a Redis and a worker, and ends them."""
    folder, runtime = where.new_folder("embedded"), where.new_folder("embedded-runtime")
    runtime.chmod(0o700)
    # Without a runtime folder of its own it would find the user's `orchestrator up` and use that.
    environment = clean_environment(ORCHESTRATOR_VOLUME=str(folder), XDG_RUNTIME_DIR=str(runtime))
    url, ca_file = where.origin.url_of(RESULT), where.origin.ca_file
    options = ["-o", RESULT, "-q", "--layout", layout]
    options += [] if sync else ["--no-sync"]
    options += [] if ca_file is None else ["--ca-file", str(ca_file)]
    shown_as = f"manyhands, embedded cold, sync {'on' if sync else 'off'}"
    arguments = (*COMMAND, "submit", url, *options)
    return CommandLine("embedded", shown_as, folder, where.origin, arguments, environment, is_own=True)
