"""The commands that run something: worker, up, flower."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from pathlib import Path

import click

from orchestrator.cli import exits, options

_STDIN = 0
_FLOWER_ENDS_SECONDS = 3.0


def _require_redis() -> None:
    from tasks.host import records_of
    from tasks.records import RedisError
    from tasks.settings import settings

    if settings().redis_url is None:
        raise RedisError(
            "ORCHESTRATOR_REDIS_URL is not set: which Redis? `orchestrator up` brings one of its own."
        )
    records = records_of(settings())
    try:
        records.check()
        records.check_permissions()
    finally:
        records.close()


def _log(level: str) -> None:
    logging.basicConfig(level=level, format="[%(asctime)s: %(levelname)s/%(processName)s] %(message)s")


@click.command()
@click.option(
    "--concurrency",
    metavar="N",
    type=click.IntRange(1, 1024),
    help="Chunks to fetch at a time (default: ORCHESTRATOR_CONCURRENCY, 16).",
)
@click.option(
    "--processes",
    metavar="N",
    type=click.IntRange(1, 256),
    help="Processes that fetch them (default: ORCHESTRATOR_PROCESSES, else one for each processor).",
)
@click.option(
    "--queues",
    metavar="LIST",
    help="Serve only these of control, merge and chunks, separated by commas (default: all).",
)
@options.max_rate
@options.source
@click.option(
    "--loglevel",
    type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"], case_sensitive=False),
    default="INFO",
    show_default=True,
)
@click.argument("celery_args", nargs=-1, type=click.UNPROCESSED)
def worker(
    concurrency: int | None,
    processes: int | None,
    queues: str | None,
    loglevel: str,
    celery_args: tuple[str, ...],
) -> int:
    """Run a worker: it fetches chunks onto the volume, plans and merges.

    Run as many as there are hosts, with the same ORCHESTRATOR_REDIS_URL and the same volume. What follows
    -- goes to Celery untouched. With ORCHESTRATOR_METRICS_PORT it serves /metrics for Prometheus, and /healthz,
    which `orchestrator health` asks.

    \b
    Examples:
      orchestrator worker
      orchestrator worker --concurrency 32
      orchestrator worker --queues control,merge
      ORCHESTRATOR_METRICS_PORT=9109 orchestrator worker
      orchestrator worker --max-rate '08:00 50M, 18:00 off' --source-address 192.0.2.7
      orchestrator worker -- --heartbeat-interval 10
    """
    from orchestrator.monitor import Monitor
    from orchestrator.processes import GaveUp, Supervisor
    from orchestrator.worker import GRACE_SECONDS, worker_services
    from tasks.app import CONTROL_QUEUE, QUEUES
    from tasks.settings import settings
    from tasks.transfer.http_source import check_ways_out
    from tasks.transfer.volume import Volume

    wanted = QUEUES if queues is None else tuple(dict.fromkeys(queues.split(",")))
    unknown = [queue for queue in wanted if queue not in QUEUES]
    if unknown:
        raise click.UsageError(f"{unknown[0]!r} is not one of the queues {', '.join(QUEUES)}.")
    check_ways_out(settings().source_address, settings().interface)
    _require_redis()
    Volume(settings().volume.absolute()).check()
    _log(loglevel)
    monitor = None
    if settings().metrics_port is not None:
        monitor = Monitor(settings(), serves_control=CONTROL_QUEUE in wanted)
    services = worker_services(
        concurrency or settings().concurrency,
        processes=processes or settings().processes,
        queues=wanted,
        celery_args=celery_args,
        loglevel=loglevel,
        at_start=monitor.enter if monitor else _nothing,
    )
    try:
        Supervisor(
            monitor.over(services) if monitor else services,
            grace_seconds=GRACE_SECONDS,
            at_look=monitor.look if monitor else _nothing,
        ).run()
    except GaveUp:
        exits.say_error("Redis refused this worker while it ran; the log above says how.")
        return exits.REDIS
    return exits.COMPLETE


def _nothing(_: object) -> None:
    """What is done at a process's start, and at a look at it, where nobody asks how it is."""


@click.command()
@click.option("--concurrency", metavar="N", type=click.IntRange(1, 1024), help="Chunks to fetch at a time.")
@click.option("--flower-port", metavar="PORT", type=click.IntRange(0, 65535), default=5555, show_default=True)
@click.option("--no-flower", is_flag=True, help="Without Flower.")
@options.max_rate
@options.source
def up(concurrency: int | None, flower_port: int, no_flower: bool) -> int:
    """Run Redis, a worker and Flower on this machine, until Ctrl-C.

    `orchestrator submit` in other terminals of the same user finds them by itself; files go to this
    command's volume.

    \b
    Examples:
      orchestrator up
      orchestrator --volume /data up --concurrency 32
    """
    from orchestrator import private_redis, rendezvous, stack
    from tasks.sealing import new_key
    from tasks.settings import Settings, settings
    from tasks.transfer.http_source import check_ways_out
    from tasks.transfer.volume import Volume

    first = Settings()
    check_ways_out(first.source_address, first.interface)
    Volume(first.volume.absolute()).check()
    private_redis.find_server()
    key = first.secret_key.get_secret_value() if first.secret_key else new_key()
    folder = stack.new_folder()
    os.environ.update(
        ORCHESTRATOR_REDIS_URL=private_redis.url_in(folder),
        ORCHESTRATOR_VOLUME=str(first.volume.absolute()),
        ORCHESTRATOR_SECRET_KEY=key,
    )
    settings.cache_clear()
    _log("INFO")
    try:
        rendezvous.announce(
            rendezvous.Running(
                pid=os.getpid(),
                redis_url=private_redis.url_in(folder),
                volume=first.volume.absolute(),
                secret_key=key,
            )
        )
    except Exception:
        folder.rmdir()
        raise
    if not no_flower:
        exits.say(f"Flower: http://127.0.0.1:{flower_port}")
    exits.say(f"Volume: {first.volume.absolute()}. Ctrl-C ends all of it.")
    try:
        return _run_stack(
            folder,
            concurrency=concurrency or first.concurrency,
            flower_args=None if no_flower else ["--port", str(flower_port)],
            loglevel="INFO",
        )
    finally:
        rendezvous.withdraw()


@click.command(hidden=True)
@click.argument("folder", type=click.Path(path_type=Path))
def private_stack(folder: Path) -> int:
    """Run the embedded mode's Redis and worker until standard input ends."""
    from tasks.settings import settings

    _log("WARNING")
    return _run_stack(
        folder,
        concurrency=settings().concurrency,
        flower_args=None,
        loglevel="WARNING",
        parent_pipe=_STDIN,
    )


def _run_stack(
    folder: Path,
    *,
    concurrency: int,
    flower_args: list[str] | None,
    loglevel: str,
    parent_pipe: int | None = None,
) -> int:
    from orchestrator import stack
    from orchestrator.processes import VitalServiceEnded

    try:
        stack.run(
            folder,
            concurrency=concurrency,
            flower_args=flower_args,
            loglevel=loglevel,
            parent_pipe=parent_pipe,
        )
    except VitalServiceEnded as ended:
        exits.say_error(f"{ended} ended by itself, and the rest was ended with it.")
        return exits.REDIS
    return exits.COMPLETE


@click.command()
@click.option("--address", default="127.0.0.1", show_default=True, help="Where to listen.")
@click.option("--port", type=click.IntRange(0, 65535), default=5555, show_default=True)
@click.argument("flower_args", nargs=-1, type=click.UNPROCESSED)
def flower(address: str, port: int, flower_args: tuple[str, ...]) -> None:
    """Run Flower on this cluster: a web page of workers and tasks.

    It listens on this machine alone unless told otherwise, and asks nobody for a password: before you give
    it another --address, give it one. What follows -- goes to Flower untouched.

    \b
    Examples:
      orchestrator flower
      FLOWER_BASIC_AUTH=me:secret orchestrator flower --address 0.0.0.0 -- --read_only
    """
    _require_redis()
    from tasks.app import app

    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    sys.argv = ["flower"]  # Tornado would read ours
    # Flower's own choice leaves the arguments out, which say what a task is about.
    columns = "name,args,state,received,runtime,worker,uuid"
    # Otherwise it runs the flowerconfig.py of the present folder. Downloads go there, under names that servers choose.
    config = os.environ.get("FLOWER_CONF") or os.devnull
    try:
        app.start(
            [
                "flower",
                f"--address={address}",
                f"--port={port}",
                f"--tasks_columns={columns}",
                f"--conf={config}",
                *flower_args,
            ]
        )
    finally:
        # A thread that Flower's executor was starting when SIGTERM came is unknown to the executor: nobody ends it,
        # and it would keep the process for ever.
        last = threading.Timer(_FLOWER_ENDS_SECONDS, os._exit, (exits.COMPLETE,))
        last.daemon = True
        last.start()
