"""Writes what is made from the code: pages in docs/, and configs/schema.json."""

import inspect
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

from agents.ppo import PPOConfig
from fwrl.cli.comparison.config import ComparisonConfig, TaskConfig
from fwrl.cli.run_config import MAY_CHANGE, RunConfig
from fwrl.cli.run_log import METRICS
from fwrl.cli.tuning.config import Dimension, PrunerConfig, TuningConfig
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


CONFIGURATION = """# Configuration

A run is described by a YAML file that holds only what differs from the defaults below. Every key
can also be set on the command line, with dots between the levels, which overrides the file:

```
fwrl train configs/quickstart.yaml ppo.learning_rate=3e-4 core.kind=lstm stack.layers=2
```

- `fwrl list configs` names the files that come with fwrl. The complete configuration of a run, with
  all defaults, is in its directory as `config.yaml`.
- An unknown key, a value out of its range and settings that contradict each other are reported in
  one line, before anything is written.
- `configs/schema.json` describes the same keys for editors: with a first line
  `# yaml-language-server: $schema=PATH/schema.json` many of them complete and check a file.
- What each memory computes, how large its state is and where it was published is in
  [The memories](memories.md).
- A run that is continued may change only {may_change}.
- *Also known as* gives the names of other libraries. They are not accepted, but the error says what
  the key is called here.

This page is made by `docs/generate.py`.

{sections}
"""


def configuration_page() -> str:
    """Every key of a run, and of the files of ``fwrl compare`` and ``fwrl tune``."""
    models = {name: _models(field.annotation) for name, field in RunConfig.model_fields.items()}
    # the memories are many, and have a page of their own
    names = sorted((name for name in models if models[name]), key=lambda name: name == "core")
    elsewhere = _names_elsewhere()
    sections = ["## The run", _keys(RunConfig, "", elsewhere)]
    for name in names:
        summary = RunConfig.model_fields[name].description or ""
        sections += [f"## {name}", _plain(summary)]
        many = len(models[name]) > 1
        for model in models[name]:
            title = f"### {name}.kind={model.model_fields['kind'].default}" if many else ""
            about = _first_paragraph(model) if many else ""
            sections += [title, about, _keys(model, f"{name}.", elsewhere)]
    for command, page, parts in OTHER_FILES:
        sections += [f"## Files of fwrl {command}", f"What they are for is in [{page}]({page})."]
        for prefix, model in parts.items():
            sections += [_first_paragraph(model), _keys(model, prefix, {})]
    may_change = ", ".join(f"`{name}`" for name in RunConfig.model_fields if name in MAY_CHANGE)
    return CONFIGURATION.format(may_change=may_change, sections="\n\n".join(filter(None, sections)))


OTHER_FILES: list[tuple[str, str, dict[str, type[BaseModel]]]] = [
    ("compare", "comparing.md", {"": ComparisonConfig, "tasks.NAME.": TaskConfig}),
    (
        "tune",
        "comparing.md",
        {"": TuningConfig, "space.KEY.": Dimension, "pruner.": PrunerConfig},
    ),
]


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The configurations that a field can hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]


def _keys(model: type[BaseModel], prefix: str, names: Mapping[str, list[str]]) -> str:
    """The table of a model's keys, but for its tag and for what has a table of its own."""
    schema = model.model_json_schema()
    rows: list[tuple[str, ...]] = []
    for name, field in model.model_fields.items():
        described = schema["properties"][name]
        section = _models(field.annotation) and described.get("type") != "object"
        if section or "const" in described:
            continue
        default = "required"
        if not field.is_required():
            default = f"`{json.dumps(field.get_default(call_default_factory=True))}`"
        others = ", ".join(f"`{each}`" for each in names.get(prefix + name, ()))
        known = f" Also known as {others}." if others else ""
        meaning = _plain(field.description or "") + known
        rows.append((f"`{prefix}{name}`", _range(described), default, meaning))
    return _table(("key", "value", "default", "meaning"), rows) if rows else ""


def _names_elsewhere() -> dict[str, list[str]]:
    """Other libraries' names for our keys."""
    names: dict[str, list[str]] = {}
    for prefix, model in (("", RunConfig), ("ppo.", PPOConfig)):
        for other, ours in model.synonyms.items():
            names.setdefault(prefix + ours, []).append(other)
    return names


def _range(schema: Mapping[str, Any]) -> str:
    """What values a JSON schema allows, in words."""
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_range(each) for each in schema["anyOf"]))
    if "enum" in schema:
        return ", ".join(f"`{each}`" for each in schema["enum"])
    match schema.get("type", "mapping"):
        case "integer" | "number" as kind:
            return kind + _limits(schema, whole=kind == "integer")
        case "array":
            parts = schema.get("prefixItems", ())
            count = f" of {len(parts)}" if parts else ""
            return f"list{count} ({_range(parts[0] if parts else schema['items'])})"
        case "object":
            return "mapping"
        case kind:
            return str(kind)


def _limits(schema: Mapping[str, Any], whole: bool) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    if whole:
        # of whole numbers the next one can be named
        low = above + 1 if above is not None else low
        high = below - 1 if below is not None else high
        above = below = None
    limits = [
        f"{word} {limit:,}" if limit < 2**40 else f"{word} 2^63 - 1"
        for word, limit in (("from", low), ("above", above), ("to", high), ("below", below))
        if limit is not None
    ]
    strict = above is not None or below is not None
    return "".join(f" {each}" for each in [(", " if strict else " ").join(limits)] if each)


def _first_paragraph(model: type[BaseModel]) -> str:
    return _plain((inspect.getdoc(model) or "").partition("\n\n")[0])


def _plain(text: str) -> str:
    """A docstring as Markdown, with the words of YAML for those of Python."""
    text = " ".join(text.split()).replace("``", "`")
    words = {"None": "null", "True": "true", "False": "false"}
    return re.sub(r"\b(None|True|False)\b", lambda found: f"`{words[found[1]]}`", text)


def schema() -> str:
    """The JSON schema of the whole configuration, for editors."""
    return json.dumps(RunConfig.model_json_schema(), indent=1) + "\n"


PAGES: dict[str, Callable[[], str]] = {
    "docs/metrics.md": metrics_page,
    "docs/memories.md": memories_page,
    "docs/configuration.md": configuration_page,
    "configs/schema.json": schema,
}

if __name__ == "__main__":
    for path, page in PAGES.items():
        (ROOT / path).write_text(page(), encoding="utf-8")
