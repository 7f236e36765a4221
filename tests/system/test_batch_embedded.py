"""A list of URLs without a cluster: interrupted, the same command goes on."""

from __future__ import annotations

from support.files import MIB, sha256_of
from support.system_helpers import stored_bytes
from support.tools import wait_until


def test_an_interrupted_list_is_gone_on_with_and_leaves_nothing(home, nginx_url, documents):
    names = ["empty", "one-byte", "below-probe", "probe"]
    urls = [f"{nginx_url}/{name}" for name in names] + [f"{nginx_url}/slow/odd-end"]
    listed = home.outputs / "urls.list"
    listed.write_text("".join(f"{url}\n" for url in urls))
    run = home.start("submit", "-i", str(listed))
    wait_until(
        lambda: (
            (len(run.stdout.splitlines()) == len(names) and stored_bytes(home.volume) > 4 * MIB)
            or run.process.poll() is not None
        ),
        seconds=60,
        what="all but the slow one",
    )
    run.interrupt()
    assert run.ended() == 130, run.stderr
    assert "the same command again with --skip-existing passes over" in run.stderr
    assert home.left_running() == []
    done = home.run("submit", "-i", str(listed), "--skip-existing", seconds=120)
    assert done.returncode == 0, done.stderr
    assert "5 files: 5 complete, 4 of them before (" in done.stderr
    for name in [*names, "odd-end"]:
        assert sha256_of(home.volume / name) == documents.digests[name]
    assert home.left() == []
