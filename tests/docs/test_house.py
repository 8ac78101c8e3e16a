"""Rules of the code base that no linter checks."""

import ast
import re
import tomllib
from functools import cache
from pathlib import Path

import pytest

import fwrl
from fwrl.cores import CORES
from fwrl.feature_maps import FEATURE_MAPS
from fwrl.update_rules import UPDATE_RULES

ROOT = Path(__file__).parents[2]
OURS = [
    path
    for folder in ("fwrl", "agents", "envs", "benchmarks", "docs")
    for path in sorted((ROOT / folder).rglob("*.py"))
] + [ROOT / "train.py"]
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def relative(path):
    return path.relative_to(ROOT).as_posix()


@cache
def parsed(path):
    return ast.parse(path.read_text())


def test_files_are_short():
    assert not [relative(p) for p in (*OURS, *TESTS) if p.read_text().count("\n") > 400]


def length(function):
    """The lines of the body of a function without its docstring."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def test_functions_are_short():
    assert not [
        f"{relative(path)}: {node.name} has {length(node)} lines"
        for path in OURS
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.FunctionDef) and length(node) > 50
    ]


def test_banned_words():
    banned = "do" + "ne"
    pattern = re.compile(rf"\b{banned}s?\b")
    assert not [relative(p) for p in (*OURS, *TESTS) if pattern.search(p.read_text())]


def test_public_names():
    assert len(set(fwrl.__all__)) == len(fwrl.__all__)
    for name in fwrl.__all__:
        assert hasattr(fwrl, name), name


@pytest.mark.parametrize(
    "table", [CORES, UPDATE_RULES, FEATURE_MAPS], ids=["cores", "rules", "maps"]
)
def test_every_entry_of_a_table_explains_itself(table):
    for name, entry in table.items():
        assert getattr(entry, "apply", entry).__doc__, name


def test_every_module_explains_itself():
    for path in OURS:
        text = path.read_text()
        assert not text or ast.get_docstring(ast.parse(text)), path


def descriptions(path):
    """Docstrings and descriptions of fields in a file, with their lines."""
    for node in ast.walk(parsed(path)):
        match node:
            case ast.Expr(value=ast.Constant(value=str(text))):
                yield node.lineno, text
            case ast.keyword(arg="description", value=ast.Constant(value=str(text))):
                yield node.value.lineno, text


def test_no_description_begins_with_of_or_what():
    riddles = [
        f"{relative(path)}:{line}: {text.strip()[:60]}"
        for path in [*OURS, *TESTS]
        for line, text in descriptions(path)
        if re.match(r"\s*(Of|What)\b", text)
    ]
    assert not riddles


def test_the_root_of_the_library_and_the_folders_of_tests():
    modules = {path.stem for path in (ROOT / "fwrl").glob("*.py")}
    parts = {"core", "state", "config", "update_rules", "stack"}
    assert modules - {"__init__", "__main__"} == parts
    assert not list((ROOT / "tests").glob("test_*.py"))


def configurations():
    """The subclasses of ``Config``, with their files."""
    classes = [
        (path, node)
        for path in OURS
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.ClassDef)
    ]
    names = {"Config"}
    while True:
        found = {
            node.name
            for _, node in classes
            if names & {getattr(base, "id", None) for base in node.bases}
        }
        if found <= names:
            break
        names |= found
    return [(path, node) for path, node in classes if node.name in found]


def test_every_field_of_a_configuration_has_a_description():
    missing = []
    for path, node in configurations():
        for field, following in zip(node.body, [*node.body[1:], ast.Pass()], strict=True):
            if not isinstance(field, ast.AnnAssign):
                continue
            written = ast.unparse(field.annotation)
            # a tag has one value, of which the class says what it is
            if re.match(r"ClassVar|Literal\[[^,]*\]$", written):
                continue
            if not isinstance(following, ast.Expr):
                missing.append(f"{relative(path)}: {node.name}.{field.target.id}")
    assert not missing
    assert len(configurations()) > 60


def test_contracts_name_every_core():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    independent = next(c for c in contracts["contracts"] if c["type"] == "independence")
    assert independent["modules"] == ["fwrl.cores.*"]


def test_tests_import_no_tests():
    pattern = re.compile(r"^\s*(?:from|import) test_", re.MULTILINE)
    assert not [relative(path) for path in TESTS if pattern.search(path.read_text())]
