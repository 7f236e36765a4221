"""An attempt whose process stands still in the middle of a body, with a clock of the test's."""

from __future__ import annotations

import random

import pytest

from support.files import MIB
from support.manifests import manifest_of_file
from support.scripted import file_answer, scripted_server
from tasks.transfer.attempt import Attempt, AttemptStopped, Pulse, StopReason
from tasks.transfer.fetch_chunk import fetch_chunk
from tasks.transfer.http_source import HttpLimits, Source
from tasks.transfer.manifest import LayoutName, SourceRequest
from tasks.transfer.volume import Volume

CONTENT = random.Random(5).randbytes(6 * MIB)


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}


@pytest.mark.parametrize("layout", [LayoutName.PARTS, LayoutName.SHARED])
def test_nothing_is_written_after_it(tmp_path, layout):
    folder = Volume(tmp_path).job("0123456789ab")
    manifest = manifest_of_file(len(CONTENT), chunk_size_bytes=len(CONTENT), layout=layout)
    folder.create()
    assert folder.write_first_manifest(manifest)
    seconds = [0.0]
    pulse = Pulse(9.0, clock=lambda: seconds[0])
    pulse.beat()

    class Freezing(Attempt):
        """Its process stands still when it has written 3 MiB; the volume is seen then."""

        seen = None

        def check_lease(self):
            if self.seen is None and self.done_bytes >= 3 * MIB:
                seconds[0] += 10.0
                self.seen = files_of(folder)
            super().check_lease()

    attempt = Freezing("a", pulse)
    with scripted_server(file_answer(CONTENT)) as server:
        source = Source(SourceRequest(url=server.url), HttpLimits())
        with pytest.raises(AttemptStopped) as caught:
            fetch_chunk(source, folder, manifest, manifest.chunk(0), attempt, "h")
        assert caught.value.reason is StopReason.LEASE_LOST
        assert files_of(folder) == attempt.seen, "no block, no checkpoint, no receipt"
        pulse.beat()
        # Another goes on from the last checkpoint.
        fetch_chunk(source, folder, manifest, manifest.chunk(0), later := Attempt("b", pulse), "h")
    assert later.resumed_bytes >= 2 * MIB
    assert folder.proven(manifest, manifest.chunk(0)).is_whole


def test_a_merge_leaves_alone_what_one_of_a_later_sending_has_joined(tmp_path):
    folder = Volume(tmp_path).job("0123456789ab")
    manifest = manifest_of_file(len(CONTENT), chunk_size_bytes=4 * MIB, layout=LayoutName.PARTS)
    folder.create()
    assert folder.write_first_manifest(manifest)
    receipts = []
    for chunk in manifest.chunks():
        with folder.open_part(manifest, chunk) as part:
            part.write(CONTENT[chunk.start : chunk.range.stop])
            receipts.append(part.complete("h"))
    later = [folder.join(manifest.model_copy(update={"generation": 10 + n}), receipts) for n in range(2)]
    assert [path.exists() for path in later] == [False, True]
    own = folder.join(manifest.model_copy(update={"generation": 9}), receipts)
    assert later[1].read_bytes() == own.read_bytes() == CONTENT
