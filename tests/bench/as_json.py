"""Results as JSON, for comparing runs."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import statistics
from typing import TYPE_CHECKING, Any

from bench.figures import ratio
from bench.peers import versions
from bench.report import COMPARED

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from bench.figures import Figure
    from bench.rounds import Series


def series_json(all_series: Sequence[Series], total_bytes: int, figures: Sequence[Figure]) -> dict[str, Any]:
    """All runs, their medians, and the ratios."""
    own = [series for series in all_series if series.is_own]
    peers = [series for series in all_series if not series.is_own]
    return {
        "size_bytes": total_bytes,
        "programs": {
            series.name: {
                "shown_as": series.shown_as,
                "median": _summary(series, statistics.median),
                "least": _summary(series, min),
                "greatest": _summary(series, max),
                "runs": [
                    {**dataclasses.asdict(run), "after": before}
                    for run, before in zip(series.runs, series.after, strict=True)
                ],
            }
            for series in all_series
        },
        "ratios": {
            one.name: {
                peer.name: {field: ratio("", one, peer, field).median for field in COMPARED} for peer in peers
            }
            for one in own
        },
        "figures": figures_json(figures),
    }


def figures_json(figures: Sequence[Figure]) -> list[dict[str, Any]]:
    """The figures with what became of their targets."""
    return [{**dataclasses.asdict(one), "target": one.target} for one in figures]


def _summary(series: Series, of: Callable[[list[float]], float]) -> dict[str, float | None]:
    fields = [field.name for field in dataclasses.fields(series.runs[0])]
    return {field: of(values) if (values := series.values(field)) else None for field in fields}


def write_json(path: Path, kind: str, results: Any) -> None:
    """Write results with what they were measured on."""
    document = {
        "kind": kind,
        "machine": {
            "cores": os.cpu_count(),
            "kernel": platform.release(),
            "python": platform.python_version(),
            "programs": versions(),
        },
        "results": results,
    }
    path.write_text(json.dumps(_without_nan(document), indent=2, allow_nan=False) + "\n")


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: null instead."""
    if isinstance(value, dict):
        return {key: _without_nan(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
