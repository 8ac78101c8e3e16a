"""Writes the pages that are made from the code: ``docs/metrics.md`` and ``configs/schema.json``."""

import json
from pathlib import Path

from fwrl.cli.run_config import RunConfig
from fwrl.cli.run_log import METRICS

ROOT = Path(__file__).resolve().parent.parent


def metrics_page() -> str:
    """Every metric, by group."""
    groups: dict[str, list[str]] = {}
    for name, meaning in METRICS.items():
        group = name.partition("/")[0]
        groups.setdefault(group, []).append(f"| `{name}` | {meaning} |")
    lines = [
        "# Metrics",
        "",
        "The same names stand in TensorBoard and in the columns of `metrics.csv`. The horizontal",
        "axis is always the number of environment steps. `rollout`, `time`, `train` and `eval` are",
        "named as in Stable-Baselines3. This page is made by `docs/generate.py`.",
    ]
    for group, rows in groups.items():
        lines += ["", f"## {group}", "", "| metric | meaning |", "|---|---|", *rows]
    return "\n".join(lines) + "\n"


def schema() -> str:
    """The JSON schema of the whole configuration, for editors."""
    return json.dumps(RunConfig.model_json_schema(), indent=1) + "\n"


PAGES = {"docs/metrics.md": metrics_page, "configs/schema.json": schema}

if __name__ == "__main__":
    for path, page in PAGES.items():
        (ROOT / path).write_text(page(), encoding="utf-8")
