"""Writes what is made from the code: docs/metrics.md, docs/memories.md, configs/schema.json."""

import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path

from fwrl.cli.run_config import RunConfig
from fwrl.cli.run_log import METRICS
from fwrl.core import state_size
from fwrl.cores import CORES
from fwrl.feature_maps import FEATURE_MAPS
from fwrl.kernels import CHUNKED
from fwrl.update_rules import UPDATE_RULES

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
        "",
        "`tensorboard --logdir runs` shows them together under *Custom scalars*, and the matrices",
        "of the memory under *Images*:",
        "",
        "![TensorBoard: two trainings, returns and what their memories do](tensorboard.png)",
    ]
    for group, rows in groups.items():
        lines += ["", f"## {group}", "", "| metric | meaning |", "|---|---|", *rows]
    return "\n".join(lines) + "\n"


MEMORIES = """# The memories

Every memory is a *core*: it has an explicit state, reads one input at a time or a sequence at once,
and the two agree to rounding ([state.md](state.md)). Any of them is chosen by its name, in policies
and in sequence models alike:

```
fwrl train configs/quickstart.yaml core.kind=delta_rnn
fwrl train configs/quickstart.yaml core.update_rule=gated_delta core.short_convolution=4
```

`W` is the fast weights of one head, written at the key `k` and read by the query `q`; `k v` is an
outer product, `k W` a read, `x * y` is taken element by element. Letters in the costs: `D` input
size, `E` output or hidden size, `H` heads, `K` key features, `V` value size; other letters are
options of the core. Numbers hold for the defaults at width 128. *Parallel* cores compute a sequence
over all its times at once when they learn; *sequential* ones need one time after another.
This page is made by `docs/generate.py`; the options of each core stand in its file under
`fwrl/cores/` and in `configs/schema.json`.

## Cores

{cores}

## Recall against the size of the state

![Accuracy of recall against the numbers that a memory holds](results/recall/recall.png)

What the picture shows, and how it was made, is in [results/recall.md](results/recall.md).

## Update rules of `fast_weight`

`core.update_rule` chooses one; `beta` is the write strength and `a` a learned decay.

{rules}

## Feature maps of `fast_weight`

`core.feature_map` chooses what makes addresses of keys and queries.

{maps}
"""


def memories_page() -> str:
    """Every core, update rule and feature map."""
    return MEMORIES.format(cores=_cores(), rules=_rules(), maps=_maps())


def _cores() -> str:
    rows: list[tuple[str, ...]] = []
    for name, config in CORES.items():
        core, about = config().build(128), config.about
        parameters = sum(parameter.numel() for parameter in core.parameters())
        sizes = (f"{state_size(core):,}", f"{parameters:,}")
        order = "parallel" if about.parallel else "sequential"
        rows.append((f"`{name}`", f"`{about.update}`", *sizes, about.cost, order, about.source))
    head = ("core", "at one time", "state", "parameters", "multiplications", "over time", "source")
    return _table(head, rows)


def _rules() -> str:
    rows: list[tuple[str, ...]] = []
    for name, rule in UPDATE_RULES.items():
        found = re.search(r"``(W <- [^`]*)``", inspect.getdoc(rule) or "")
        assert found, f"{name} does not say what becomes of W"
        order = "parallel" if rule in CHUNKED else "sequential"
        rows.append((f"`{name}`", f"`{found[1]}`", order, _summary(rule)))
    return _table(("rule", "at one time", "over time", ""), rows)


def _maps() -> str:
    rows = [(f"`{name}`", _summary(function)) for name, function in FEATURE_MAPS.items()]
    return _table(("map", ""), rows)


def _summary(documented: object) -> str:
    return (inspect.getdoc(documented) or "").partition("\n")[0].replace("``", "`")


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    # a bar inside a cell would end it
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (head, *rows)]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])


def schema() -> str:
    """The JSON schema of the whole configuration, for editors."""
    return json.dumps(RunConfig.model_json_schema(), indent=1) + "\n"


PAGES: dict[str, Callable[[], str]] = {
    "docs/metrics.md": metrics_page,
    "docs/memories.md": memories_page,
    "configs/schema.json": schema,
}

if __name__ == "__main__":
    for path, page in PAGES.items():
        (ROOT / path).write_text(page(), encoding="utf-8")
