"""The files of a comparison besides its page: JSON, tables, and each picture by itself."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from brainsegfounder.evaluation.comparison import Compared, Comparison, Settings
from brainsegfounder.evaluation.pairing import Method
from brainsegfounder.evaluation.report import Cell, Table
from brainsegfounder.evaluation.subgroups import Subgroup
from brainsegfounder.evaluation.tables import (
    comparison_numbers,
    comparison_table,
    difference_numbers,
    subgroup_numbers,
    subgroup_table,
    to_csv,
    to_latex,
    to_markdown,
)
from brainsegfounder.evaluation.verdicts import sentence, summary
from brainsegfounder.files import sha256, write_bytes, write_text
from brainsegfounder.workflows.compare_inputs import Gathered
from brainsegfounder.workflows.compare_page import Drawn

FORMAT_VERSION = 1


def comparison_record(
    gathered: Gathered,
    methods: Sequence[Method],
    metrics: Sequence[str],
    settings: Settings,
    compared: Compared,
    subgroups: Sequence[Subgroup],
    warnings: Sequence[str],
) -> dict[str, Any]:
    """What `comparison.json` holds."""
    files = {
        name: [{"path": str(f.path), "sha256": sha256(f.path)} for f in of]
        for name, of in gathered.files.items()
    }
    return {
        "version": FORMAT_VERSION,
        "convention": gathered.convention,
        "baseline": methods[0].name,
        "methods": [method.name for method in methods],
        "metrics": list(metrics),
        "settings": asdict(settings),
        "summary": {m: summary(compared.comparisons, m) for m in compared.metrics},
        "warnings": list(warnings),
        "comparisons": [_comparison_record(one) for one in compared.comparisons],
        "untested": [asdict(one) for one in compared.untested],
        "unmatched": {name: [asdict(one) for one in of] for name, of in compared.unmatched.items()},
        "subgroups": [asdict(one) for one in subgroups],
        "files": files,
    }


def _comparison_record(one: Comparison) -> dict[str, Any]:
    names = ("method", "baseline", "metric", "region", "labels", "direction", "unit")
    return {
        **{name: getattr(one, name) for name in names},
        "method_mean": one.method_mean,
        "baseline_mean": one.baseline_mean,
        **asdict(one.result),
        "p_holm": one.p_holm,
        "num_family": one.num_family,
        "shown": one.shown,
        "sources": None if one.sources is None else asdict(one.sources),
        "non_inferiority": None if one.non_inferiority is None else asdict(one.non_inferiority),
        "sentence": sentence(one),
    }


def write_files(
    out: Path,
    record: Mapping[str, Any],
    compared: Compared,
    subgroups: Sequence[Subgroup],
    drawn: Sequence[Drawn],
) -> None:
    """Write everything but the page.

    Raises:
        RunError: A file cannot be written.
    """
    comparisons = compared.comparisons
    text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False)
    write_text(out / "comparison.json", text + "\n")
    write_text(out / "comparisons.csv", to_csv(comparison_numbers(comparisons)))
    write_text(out / "differences.csv", to_csv(difference_numbers(comparisons)))
    _write_texts(out, "comparisons", comparison_table(comparisons))
    if subgroups:
        write_text(out / "subgroups.csv", to_csv(subgroup_numbers(subgroups)))
        _write_texts(out, "subgroups", subgroup_table(subgroups))
    rows: list[list[Cell]] = [
        [name, one.case, one.region, one.reason]
        for name, of in compared.unmatched.items()
        for one in of
    ]
    table = Table("Left out", ["method", "case", "region", "reason"], rows)
    write_text(out / "unmatched.csv", to_csv(table))
    for one in drawn:
        name = re.sub(r"[^a-z0-9]+", "-", one.name.lower()).strip("-")
        content = base64.b64decode(one.picture.data_uri.partition(",")[2])
        write_bytes(out / "figures" / f"{name}.svg", content)


def _write_texts(out: Path, name: str, table: Table) -> None:
    write_text(out / f"{name}.md", to_markdown(table))
    write_text(out / f"{name}.tex", to_latex(table, name))
