"""``orchestrator worker``: Celery processes with the right pool, queues and settings.

Chunks have processes of their own, as many as there are processors, and plans and merges another: neither ever waits
behind somebody's chunks.
"""

from __future__ import annotations

import functools
import gc
import importlib
import os
import sys
import threading
from typing import TYPE_CHECKING

from orchestrator.processes import Forked, Service
from tasks.app import CHUNKS_QUEUE, QUEUES
from tasks.reconnecting import REFUSED_EXIT_CODE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: Plans and merges at a time. They are short, or wait for the disk.
_CONTROL_SLOTS = 4
#: A process with fewer connections than this costs more memory than it saves time.
_LEAST_SLOTS = 4
#: How long a process may take to end; a worker is gone within 2 s of SIGTERM. Then it is ended where it is, in a sync,
#: a Redis or a file server that hangs. That is safe: on the volume nothing has its name before it is whole, leases run
#: out, and messages that were not acknowledged are sent again.
_LAST_SECONDS = 1.6
#: How long its supervisor waits for that: a process may be too far gone to end itself.
GRACE_SECONDS = 1.9
#: What Celery imports when it starts, some of it by names in its settings.
_IMPORTED_AT_START = (
    "billiard.pool",
    "celery.app.control",
    "celery.app.events",
    "celery.app.log",
    "celery.apps.worker",
    "celery.backends.redis",
    "celery.bin.worker",
    "celery.concurrency.thread",
    "celery.events.receiver",
    "celery.worker.autoscale",
    "celery.worker.components",
    "celery.worker.consumer.delayed_delivery",
    "celery.worker.control",
    "celery.worker.loops",
    "celery.worker.pidbox",
    "celery.worker.strategy",
    "kombu.transport.redis",
    "tasks.consumer",
    "tasks.pool",
)


def worker_services(
    concurrency: int,
    *,
    processes: int | None = None,
    queues: Sequence[str] = QUEUES,
    celery_args: Sequence[str] = (),
    loglevel: str = "INFO",
    at_start: Callable[[str], object] = lambda _: None,
) -> list[Service]:
    """The Celery processes of one worker, to be supervised.

    Args:
        concurrency: chunks to fetch at a time.
        processes: how many fetch them; None: see `slots_of_processes`.
        queues: which queues to serve.
        celery_args: what Celery is told besides.
        loglevel: Celery's.
        at_start: called first in each process, with its name.
    """
    control = [queue for queue in queues if queue != CHUNKS_QUEUE]
    services = []
    if control:
        services.append(_service("control", control, _CONTROL_SLOTS, celery_args, loglevel, at_start))
    if CHUNKS_QUEUE in queues:
        for number, slots in enumerate(slots_of_processes(concurrency, processes), start=1):
            name = f"chunks-{number}"
            services.append(_service(name, [CHUNKS_QUEUE], slots, celery_args, loglevel, at_start))
    return services


def slots_of_processes(concurrency: int, wanted: int | None, *, processors: int | None = None) -> list[int]:
    """How many chunks each process fetches at a time; as many as `concurrency` in all.

    One process runs Python on one processor: its threads wait for each other's interpreter lock.

    Args:
        concurrency: chunks to fetch at a time.
        wanted: how many processes; None: one for each processor, if each has enough to do.
        processors: that may be used; None: as the system says.
    """
    if wanted is None:
        wanted = min(processors or _processors(), max(1, concurrency // _LEAST_SLOTS))
    count = min(wanted, concurrency)
    return [concurrency // count + (number < concurrency % count) for number in range(count)]


def _processors() -> int:
    # What a container or `taskset` leaves of the machine's.
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _end_soon(exitcode: int = 0, **_: object) -> None:
    """End the process even if Celery's own end does not come: it waits for each task, and for Redis."""
    timer = threading.Timer(_LAST_SECONDS, os._exit, [exitcode or 1])
    timer.daemon = True
    timer.start()


def _service(
    name: str,
    queues: Sequence[str],
    slots: int,
    celery_args: Sequence[str],
    loglevel: str,
    at_start: Callable[[str], object],
) -> Service:
    def run() -> None:
        from celery.bin.base import CLIContext
        from celery.bin.worker import worker
        from celery.signals import worker_shutting_down

        from tasks.app import app
        from tasks.settings import settings

        at_start(name)
        codes = [0]
        worker_shutting_down.connect(_end_soon, weak=False)
        worker_shutting_down.connect(lambda exitcode=0, **_: codes.append(exitcode), weak=False)

        # Celery puts something else for what follows a per cent sign.
        own_name = settings().host_name
        host_name = "%h" if own_name is None else own_name.replace("%", "%%")
        # Not app.worker_main: it loads all of Celery's commands, and Flower with them, which is 11 MB a process.
        worker.main(
            [
                f"--queues={','.join(queues)}",
                f"--concurrency={slots}",
                # Two workers of one name confuse Flower and each other's control commands.
                f"--hostname={name}-{os.getpid()}@{host_name}",
                # Neither is used here, and the first waits a second for others at each start.
                "--without-mingle",
                "--without-gossip",
                f"--loglevel={loglevel}",
                *celery_args,
            ],
            prog_name="celery worker",
            obj=CLIContext(app, no_color=None, workdir=None),  # type: ignore[arg-type]  # None: by the terminal
            standalone_mode=False,
        )
        # Celery keeps it for itself.
        sys.exit(codes[-1])

    def start() -> Forked:
        _prepare_to_fork()
        return Forked(name, run)

    return Service(name, start, hopeless_exit_code=REFUSED_EXIT_CODE)


@functools.cache
def _prepare_to_fork() -> None:
    """Import what all Celery processes need into this one, which they are forked from: they share its memory.

    Done at the first fork and not before: a Redis that starts first need not wait for it.
    """
    from tasks.app import app

    for module in _IMPORTED_AT_START:
        importlib.import_module(module)
    app.loader.import_default_modules()
    app.finalize()
    gc.collect()
    # A collection writes into each object that it looks at, and a page that is written to is not shared any more:
    # the first one in each process would take 24 MB.
    gc.freeze()
