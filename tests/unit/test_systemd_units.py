"""The units of deploy/systemd, as systemd's own checks see them, and held against the program."""

from __future__ import annotations

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest

from orchestrator.worker import GRACE_SECONDS
from support.systemd import FOLDER, UNITS
from support.tools import need
from tasks.app import QUEUES
from tasks.settings import ENV_PREFIX, Settings

#: Out of 100; what is left is the network, which a downloader needs. A unit without any such options has 96.
MOST_EXPOSURE = 16

each_unit = pytest.mark.parametrize("unit", UNITS)


class _Values(dict):
    """The options of a section: one that is given again is added, an empty one takes the others back."""

    def __setitem__(self, key, value):
        if isinstance(value, list) and key in self and value != [""]:
            value = [*self[key], *value]
        super().__setitem__(key, value)


def options_of(unit: str) -> dict[str, str]:
    """All options of a unit; the values of one that is given several times, with spaces between."""
    parser = configparser.ConfigParser(strict=False, dict_type=_Values, interpolation=None)
    parser.optionxform = str
    parser.read(FOLDER / unit)
    return {
        key: value.replace("\n", " ")
        for section in parser.sections()
        for key, value in parser[section].items()
    }


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A host on which the units are installed, and so is the program."""
    folder = tmp_path_factory.mktemp("root")
    (folder / "etc/systemd/system").mkdir(parents=True)
    for unit in UNITS:
        shutil.copy(FOLDER / unit, folder / "etc/systemd/system")
    # Those that ours refer to.
    shutil.copytree("/usr/lib/systemd/system", folder / "usr/lib/systemd/system", symlinks=True)
    program = folder / options_of(UNITS[0])["ExecStart"].split()[0].lstrip("/")
    program.parent.mkdir(parents=True)
    program.touch(mode=0o755)
    return folder


def verify(root: Path, unit: str) -> tuple[int, str]:
    done = subprocess.run(
        [need("systemd-analyze"), "verify", "--man=no", f"--root={root}", unit],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


@each_unit
def test_systemd_finds_nothing_wrong_with_a_unit(root, unit):
    assert verify(root, unit) == (0, "")


def test_systemd_would_find_an_option_that_it_does_not_know(root):
    text = (FOLDER / UNITS[0]).read_text().replace("RestartSec=", "RestartSecs=")
    (root / "etc/systemd/system/wrong.service").write_text(text)
    # It ends with 0 all the same.
    assert "RestartSecs" in verify(root, "wrong.service")[1]


def exposure_is_within(path: Path, threshold: int) -> bool:
    done = subprocess.run(
        [
            need("systemd-analyze"), "security", "--offline=true", "--no-pager", f"--threshold={threshold}",
            str(path),
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Overall exposure level" in done.stdout + done.stderr, done.stderr
    return done.returncode == 0


@each_unit
def test_what_a_unit_is_exposed_to_is_bounded(unit, tmp_path):
    assert exposure_is_within(FOLDER / unit, MOST_EXPOSURE)
    weaker = tmp_path / unit
    lines = (FOLDER / unit).read_text().splitlines(keepends=True)
    weaker.write_text("".join(line for line in lines if not line.startswith("CapabilityBoundingSet")))
    assert not exposure_is_within(weaker, MOST_EXPOSURE)


def test_the_units_differ_in_what_they_serve_and_in_their_port_only():
    worker, control = (options_of(unit) for unit in UNITS)
    different = {key for key in worker | control if worker.get(key) != control.get(key)}
    assert different == {"Description", "ExecStart", "Environment"}
    served = [options["ExecStart"].split("--queues ")[1] for options in (worker, control)]
    assert sorted(",".join(served).split(",")) == sorted(QUEUES)


@each_unit
def test_who_ends_has_more_time_than_it_takes_to_drain_and_the_supervisor_ends_the_others(unit):
    options = options_of(unit)
    assert int(options["TimeoutStopSec"]) > 2 * GRACE_SECONDS
    # With `control-group` all processes would get SIGTERM at once; with `process` those that hang would stay.
    assert options["KillMode"] == "mixed"


@each_unit
def test_a_unit_and_the_example_agree_on_the_volume(unit):
    options, example = options_of(unit), environment()
    assert options["EnvironmentFile"] == "/etc/manyhands/worker.env"
    for key in ("ReadWritePaths", "RequiresMountsFor", "AssertPathIsMountPoint"):
        assert options[key] == example["ORCHESTRATOR_VOLUME"]


@each_unit
def test_every_variable_is_a_setting(unit):
    fields = {f"{ENV_PREFIX}{name.upper()}" for name in Settings.model_fields}
    assert {*environment(is_all=True), options_of(unit)["Environment"].partition("=")[0]} <= fields


def environment(*, is_all: bool = False) -> dict[str, str]:
    """The variables of the example; also those that are only suggested, if `is_all`."""
    lines = (FOLDER / "worker.env.example").read_text().splitlines()
    if is_all:
        lines = [line.removeprefix("#") for line in lines]
    return dict(line.split("=", 1) for line in lines if line.startswith(ENV_PREFIX))
