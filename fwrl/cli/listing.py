"""``fwrl list``: what there is to choose from, read from the tables themselves."""

import inspect
from collections.abc import Callable

from fwrl.config import ConfigError, nearest


def show(what: str) -> str:
    """One list, or all of them when ``what`` is empty.

    Raises:
        ConfigError: For a list that does not exist.
    """
    if what and what not in LISTS:
        raise ConfigError(f"list is {what!r}; {nearest(what, LISTS)}")
    chosen = [what] if what else list(LISTS)
    blocks = ["\n".join([name, *(f"  {line}" for line in LISTS[name]())]) for name in chosen]
    return "\n\n".join(blocks)


def _cores() -> list[str]:
    import torch

    from fwrl.core import state_size
    from fwrl.cores import CORES
    from fwrl.kernels import kernel_for
    from fwrl.kernels.library import library
    from fwrl.update_rules import UPDATE_RULES

    sequence = torch.zeros(1, 128, 1, 1)
    kernels: dict[str, list[str]] = {}
    for name, rule in UPDATE_RULES.items():
        kernels.setdefault(kernel_for(rule, sequence), []).append(name)
    rows = [
        (
            name,
            f"{state_size(config().build(128)):>7,} floats",
            "parallel" if config.about.parallel else "sequential",
            config.about.source,
        )
        for name, config in CORES.items()
    ]
    scans = [f"kernel {kernel!r} scans {', '.join(rules)}" for kernel, rules in kernels.items()]
    return [
        *_table(rows),
        "floats: what one stream's memory holds at width 128; parallel: over time, in training",
        *scans,
        f"native kernels: {library().about}",
    ]


def _rules() -> list[str]:
    from fwrl.update_rules import UPDATE_RULES

    return _table([(name, _summary(rule)) for name, rule in UPDATE_RULES.items()])


def _features() -> list[str]:
    from fwrl.feature_maps import FEATURE_MAPS

    return _table([(name, _summary(function)) for name, function in FEATURE_MAPS.items()])


def _envs() -> list[str]:
    from envs import env_names

    return [f"{family}: {', '.join(names)}" for family, names in env_names().items()]


def _configs() -> list[str]:
    from fwrl.cli.run_directory import configs_directory

    folder = configs_directory()
    return [f"configs/{path.relative_to(folder)}" for path in sorted(folder.rglob("*.yaml"))]


def _benchmarks() -> list[str]:
    from fwrl.bench import BENCHMARKS

    return _table(list(BENCHMARKS.items()))


def _summary(documented: object) -> str:
    return (inspect.getdoc(documented) or "").partition("\n")[0]


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


LISTS: dict[str, Callable[[], list[str]]] = {
    "cores": _cores,
    "rules": _rules,
    "features": _features,
    "envs": _envs,
    "configs": _configs,
    "benchmarks": _benchmarks,
}
