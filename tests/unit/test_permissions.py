"""What the records ask of Redis is what the ACL permits: a command that is used and not listed would be refused."""

from __future__ import annotations

import re
from pathlib import Path

import tasks.records
from tasks.records.permissions import commands

SOURCES = {path: path.read_text() for path in Path(tasks.records.__file__).parent.glob("*.py")}
#: Methods of redis-py that are no commands of that name.
_OTHER_NAMES = {
    "delete": "del",
    "hscan_iter": "hscan",
    "scan_iter": "scan",
    "register_script": "evalsha",
}
_NO_COMMANDS = {"execute", "pipeline", "pubsub", "close", "connection_pool"}


def test_every_command_of_a_script_is_listed():
    text = "\n".join(SOURCES.values())
    used = set(re.findall(r"redis\.p?call\('([A-Z]+)'", text)) | set(re.findall(r"'(S(?:ADD|REM))'", text))
    assert len(used) > 30
    assert {name.lower() for name in used} <= set(commands())


def test_every_command_of_the_client_is_listed():
    text = "\n".join(SOURCES.values())
    used = set(re.findall(r"\b(?:pipe|_redis)\.([a-z_]+)\(", text)) - _NO_COMMANDS
    assert len(used) > 20
    assert {_OTHER_NAMES.get(name, name) for name in used} <= set(commands())
