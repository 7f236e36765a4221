"""The command group. Commands are loaded when they are run: Celery is half a second that --help need not pay."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
from typing import TYPE_CHECKING, NoReturn

import click

from orchestrator.cli import exits
from orchestrator.cli.variables import sets

if TYPE_CHECKING:
    from types import FrameType

#: Name -> (module, what ``orchestrator --help`` says), in the order of the help.
_COMMANDS = {
    "submit": ("jobs_submit", "Download a URL onto the volume."),
    "status": ("jobs", "Show one job, or a table of all."),
    "list": ("jobs", "Show a table of jobs."),
    "wait": ("jobs", "Wait for a job, with progress."),
    "cancel": ("jobs", "End jobs and remove their parts."),
    "pause": ("jobs", "Stop jobs and keep their parts."),
    "resume": ("jobs", "Go on with paused, failed or cancelled jobs."),
    "limit": ("jobs", "Change how quickly a job may come."),
    "verify": ("verify", "Read a finished file again and compare it."),
    "prune": ("prune", "Remove what is left of jobs that ended long ago."),
    "recover": ("recover", "Go on with jobs that Redis has lost."),
    "worker": ("services", "Run a worker."),
    "health": ("health", "Say whether this host's worker is well."),
    "up": ("services", "Run Redis, a worker and Flower on this machine."),
    "flower": ("services", "Run Flower, the web page that shows workers and tasks."),
    "settings": ("settings", "Show all settings, and where each came from."),
    "private-stack": ("services", ""),
}


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return [name for name, (_, text) in _COMMANDS.items() if text]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"orchestrator.cli.{_COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, _attribute(cmd_name))
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # click's own would load every command for the line that it shows of it.
        with formatter.section("Commands"):
            formatter.write_dl([(name, _COMMANDS[name][1]) for name in self.list_commands(ctx)])


def _attribute(command: str) -> str:
    # A function named `list` would hide the built-in one from its module.
    return "list_" if command == "list" else command.replace("-", "_")


@click.group(
    cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(package_name="manyhands", prog_name="orchestrator")
@click.option(
    "--redis-url",
    metavar="URL",
    expose_value=False,
    callback=sets("REDIS_URL"),
    help="Redis of the cluster. Passwords are safer in ORCHESTRATOR_REDIS_URL: others can read a command line.",
)
@click.option(
    "--volume",
    metavar="FOLDER",
    expose_value=False,
    callback=sets("VOLUME"),
    help="The shared directory; for this machine's workers, and for the embedded mode (default: here).",
)
def orchestrator() -> None:
    """Download one big HTTP file onto a shared volume with the network of a whole cluster.

    Without ORCHESTRATOR_REDIS_URL, `submit` brings its own Redis and worker and needs nothing else.

    \b
    Examples:
      orchestrator submit https://example.org/big.iso
      orchestrator submit https://example.org/big.iso -o images/big.iso --sha256 1f2e...
      ORCHESTRATOR_REDIS_URL=redis://head:6379/0 ORCHESTRATOR_VOLUME=/mnt/shared orchestrator worker
      ORCHESTRATOR_REDIS_URL=redis://head:6379/0 orchestrator submit https://example.org/big.iso

    \b
    Exit codes:
      0 complete            4 the volume (full, exists, not writable)
      1 a bug               5 Redis unreachable
      2 usage               6 cancelled
      3 the origin          7 not complete when --timeout passed, or paused
      130 interrupted
    """


def _terminated(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001
    raise KeyboardInterrupt


def _fill_standard_files() -> None:
    """Put nothing in the place of standard files that are closed, or the first socket to be opened would be there."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest that is free: this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # noqa: FBT003


def _give_up_a_full_stderr() -> None:
    """Leave nothing to be written to a log that is full: Python itself would end with 120 instead of our code."""
    try:
        if sys.stderr is not None:
            sys.stderr.flush()
    except (OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def main() -> NoReturn:
    """Run the command line; the process ends with one of the exit codes of ``--help``."""
    signal.signal(signal.SIGTERM, _terminated)
    signal.signal(signal.SIGHUP, _terminated)
    _fill_standard_files()
    try:
        code = orchestrator.main(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else exits.COMPLETE)
    except click.exceptions.Exit as ended:
        sys.exit(ended.exit_code)
    except click.ClickException as error:
        with contextlib.suppress(OSError, ValueError):
            error.show()
        sys.exit(exits.USAGE)
    except (KeyboardInterrupt, click.exceptions.Abort):
        exits.say("interrupted")
        sys.exit(exits.INTERRUPTED)
    except Exception as error:  # noqa: BLE001  (told apart below; a bug keeps its traceback)
        exits.show(error)
    finally:
        _give_up_a_full_stderr()
