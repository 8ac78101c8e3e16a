"""``fwrl list``: the choices, read from the tables themselves; only core sizes need PyTorch."""

import ast
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from fwrl.config import ConfigError, nearest


def show(what: str) -> str:
    """One list, or all of them in short when ``what`` is empty.

    Raises:
        ConfigError: For a list that does not exist.
    """
    if what and what not in LISTS:
        raise ConfigError(f"list is {what!r}; {nearest(what, LISTS)}")
    chosen = {what: LISTS[what]} if what else {**LISTS, **SHORT}
    blocks = [
        "\n".join([name, *(f"  {line}" for line in lines())]) for name, lines in chosen.items()
    ]
    return "\n\n".join(blocks)


def _cores() -> list[str]:
    import torch

    from fwrl.core import state_size
    from fwrl.cores import CORES
    from fwrl.kernels import kernel_for
    from fwrl.kernels.native.library import library
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
        "core may be a list of them, one for each layer: 'core=[{kind: gru}, {kind: fast_weight}]'",
        *scans,
        f"native kernels: {library().about}",
    ]


def _cores_in_short() -> list[str]:
    rows = _table(list(summaries("fwrl.cores", "CORES").items()))
    return [*rows, "`fwrl list cores` says how much each holds and where it is from"]


def _rules() -> list[str]:
    return _table(list(summaries("fwrl.update_rules", "UPDATE_RULES").items()))


def _features() -> list[str]:
    return _table(list(summaries("fwrl.feature_maps", "FEATURE_MAPS").items()))


def _envs_in_short() -> list[str]:
    ours = ", ".join(f"fwrl/{name}-v0" for name in summaries("envs.tasks", "TASKS"))
    return [f"fwrl: {ours}", "`fwrl list envs` has Gymnasium's, Atari's and other packages' too"]


def _envs() -> list[str]:
    from envs import env_names

    return [f"{family}: {', '.join(names)}" for family, names in env_names().items()]


def _configs() -> list[str]:
    from fwrl.run.yaml_files import configs_directory

    folder = configs_directory()
    return [f"configs/{path.relative_to(folder)}" for path in sorted(folder.rglob("*.yaml"))]


def _benchmarks() -> list[str]:
    from fwrl.bench import BENCHMARKS

    return _table([(name, entry.question) for name, entry in BENCHMARKS.items()])


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
# Shorter lists in place of slow ones, where all are shown.
SHORT: dict[str, Callable[[], list[str]]] = {"cores": _cores_in_short, "envs": _envs_in_short}


def summaries(module: str, table: str) -> dict[str, str]:
    """The names in a dictionary of a module, each with the first line that documents its entry.

    The dictionary is a literal. Its values are functions or classes of that module, or imported
    there; records whose first field is one; or calls with a module beside it and a name there.

    Args:
        module: Its dotted name.
        table: The dictionary's name.
    """
    tree = _parsed(module)
    entries = _dictionary(tree, table)
    found: dict[str, str] = {}
    for key, value in zip(entries.keys, entries.values, strict=True):
        match value:
            case ast.Name(id=name) | ast.Call(args=[ast.Name(id=name), *_]):
                home = _home(tree, module, name)
            case ast.Call(args=[ast.Constant(value=str(beside)), ast.Constant(value=str(name))]):
                home = f"{module}.{beside}"
            case _:
                raise AssertionError(f"{module}.{table} is no table of names")
        assert isinstance(key, ast.Constant)
        found[str(key.value)] = _first_line(home, name)
    return found


@cache
def _parsed(module: str) -> ast.Module:
    package, _, rest = module.partition(".")
    spec = find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    # finding a module inside a package would run the package
    path = Path(spec.submodule_search_locations[0], *rest.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(file.read_text(encoding="utf-8"))


def _dictionary(tree: ast.Module, table: str) -> ast.Dict:
    for node in tree.body:
        target = node.target if isinstance(node, ast.AnnAssign) else None
        if isinstance(target, ast.Name) and target.id == table:
            assert isinstance(node, ast.AnnAssign)
            assert isinstance(node.value, ast.Dict)
            return node.value
    raise AssertionError(f"there is no table {table}")


def _home(tree: ast.Module, module: str, name: str) -> str:
    """The module that a name comes from."""
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and name in {alias.name for alias in node.names}:
            assert node.module is not None
            return node.module
    return module


def _first_line(module: str, name: str) -> str:
    for node in _parsed(module).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return (ast.get_docstring(node) or "").partition("\n")[0]
    raise AssertionError(f"{module} has no {name}")
