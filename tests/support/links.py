"""Links of hosts on a bridge that are held to a rate: ``tc tbf`` at both ends of a host's cable.

What a host receives is shaped where the bridge sends it, and what it sends where the host does. The rate counts
Ethernet frames: of 100 Mbit/s TCP has 95.6 for its data.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from support.tools import need

if TYPE_CHECKING:
    from support.namespaces import NetHost

# Segmentation offload hands packets of up to 64 KiB from one end of a cable to the other: what a bucket cannot hold at
# once, tbf has to cut up, or to drop.
_BURST_BYTES = 128 * 1024
_QUEUE = "50ms"


def _tc(*args: str) -> str:
    done = subprocess.run([need("tc"), *args], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"tc {' '.join(args)}: {done.stderr.strip()}"
    return done.stdout


def hold(host: NetHost, *, bits_per_second: int) -> None:
    """Hold a host's link to a rate, either way, from now on."""
    shape = ("root", "tbf", "rate", f"{bits_per_second}bit", "burst", str(_BURST_BYTES), "latency", _QUEUE)
    _tc("qdisc", "replace", "dev", host.port, *shape)
    _tc("-n", host.name, "qdisc", "replace", "dev", "eth0", *shape)


def let_go(host: NetHost) -> None:
    """Let a host's link be as fast as the machine is."""
    _tc("qdisc", "del", "dev", host.port, "root")
    _tc("-n", host.name, "qdisc", "del", "dev", "eth0", "root")


def shaped_bytes(host: NetHost) -> int:
    """What a held host has received since it was first held: bytes of frames, as the rate counts them."""
    shapers = json.loads(_tc("-s", "-j", "qdisc", "show", "dev", host.port))
    return next(int(each["bytes"]) for each in shapers if each["kind"] == "tbf")


def received_bytes(host: NetHost) -> int:
    """What a host has received; of packets that are handed over as one, the headers count once."""
    return int(Path(f"/sys/class/net/{host.port}/statistics/tx_bytes").read_text())
