"""A server chooses the names of downloads, and programs look for code in the folder where those go: ours must not."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from support.origin import origin
from support.tools import free_port, is_listening, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from support.system_helpers import Home

#: Prints the top-level names of all that a worker and Flower import.
_NAMES = """
import sys
import celery.bin.celery, celery.bin.worker, celery.apps.worker, flower.command
from tasks.app import app
app.loader.import_default_modules()
print(*sorted({name.partition(".")[0] for name in sys.modules} - set(sys.builtin_module_names)))
"""
#: What programs are known to run besides.
_SETTINGS_FILES = ("flowerconfig", "celeryconfig", "sitecustomize", "usercustomize")


@pytest.fixture
def planted(home: Home) -> Path:
    """Files in the home's volume for all that is imported; each that is run says so in the file that is returned."""
    listed = subprocess.run(
        [sys.executable, "-P", "-c", _NAMES],
        env={**os.environ, "ORCHESTRATOR_REDIS_URL": "redis://127.0.0.1:1/0"},
        capture_output=True,
        text=True,
        check=True,
    )
    names = listed.stdout.split()
    assert {"tasks", "http_sf", "tornado"} <= set(names)
    told = home.outputs / "planted-files-that-were-run"
    for name in [*names, *_SETTINGS_FILES]:
        path = home.volume / f"{name}.py"
        path.write_text(f"with open({str(told)!r}, 'a') as file:\n    print({name!r}, file=file)\n")
    return told


def test_neither_workers_nor_flower_run_files_of_the_present_folder(home, planted):
    port = free_port()
    up = home.start("up", "--concurrency", "4", "--flower-port", str(port), cwd=home.volume)
    with origin(bytes(3_000_000)) as served:
        wait_until(
            lambda: is_listening(port) or planted.exists() or up.process.poll() is not None,
            seconds=60,
            what="Flower listening",
        )
        assert not planted.exists(), planted.read_text()
        done = home.run("submit", served.url, "-o", "here.bin", cwd=home.volume)
        up.interrupt()
        up.ended()
    assert not planted.exists(), planted.read_text()
    assert done.returncode == 0, done.stderr
