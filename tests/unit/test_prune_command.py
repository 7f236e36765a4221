"""What `orchestrator prune` takes and says."""

from __future__ import annotations

import click
import pytest

from orchestrator.cli.options import Age
from orchestrator.cli.prune import sentence
from tasks.prune import Pruned


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("90s", 90),
        ("1.5h", 5400),
        ("30 m", 1800),
        ("7D", 7 * 24 * 3600),
        ("2w", 14 * 24 * 3600),
        ("0", 0),  # all that has ended
    ],
)
def test_ages_have_units(text, seconds):
    assert Age().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "-1", "1y", "h", "nan", "inf", "1e9", "1h30m", "9999999999"])
def test_what_is_no_age_is_refused(text):
    with pytest.raises(click.BadParameter, match="is not an age such as"):
        Age().convert(text, None, None)


@pytest.mark.parametrize(
    ("pruned", "said"),
    [
        (Pruned(), "nothing to remove"),
        (Pruned(jobs=["a"], bytes=5_000_000_000), "removed: 1 job, 5.0 GB on the volume"),
        (Pruned(jobs=["a", "b"], leftovers_count=1), "removed: 2 jobs and 1 leftover, 0 bytes on the volume"),
        (Pruned(leftovers_count=3, bytes=4096), "removed: 3 leftovers, 4.1 kB on the volume"),
        (Pruned(jobs=["a"], is_dry_run=True), "would be removed: 1 job, 0 bytes on the volume"),
    ],
)
def test_one_sentence_says_what_went(pruned, said):
    assert sentence(pruned) == said
