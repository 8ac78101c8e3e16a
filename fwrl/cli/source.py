"""Tables of names as the source has them: read, never run, and so without waiting for PyTorch."""

import ast
from functools import cache
from importlib.util import find_spec
from pathlib import Path


def summaries(module: str, table: str) -> dict[str, str]:
    """The names in a dictionary of a module, each with the first line that documents its entry.

    The dictionary is a literal whose values are functions or classes of that module, or imported
    there; it may take in another such dictionary by ``**``.

    Args:
        module: Its dotted name.
        table: The dictionary's name.
    """
    tree = _parsed(module)
    entries = _dictionary(tree, table)
    found: dict[str, str] = {}
    for key, entry in zip(entries.keys, entries.values, strict=True):
        assert isinstance(entry, ast.Name), f"{module}.{table} is no table of names"
        if key is None:
            found |= summaries(_home(tree, module, entry.id), entry.id)
        else:
            name = ast.literal_eval(key)
            found[name] = _first_line(_home(tree, module, entry.id), entry.id)
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
