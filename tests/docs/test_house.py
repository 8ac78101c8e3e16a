"""The rules of the house that a machine can see and no other tool checks."""

import ast
import re
import tomllib
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
every_file = pytest.mark.parametrize("path", OURS, ids=lambda p: str(p.relative_to(ROOT)))


@pytest.mark.parametrize("path", [*OURS, *TESTS], ids=lambda p: p.name)
def test_files_are_short(path):
    assert path.read_text().count("\n") <= 400


@every_file
def test_functions_are_short(path):
    text = path.read_text()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            assert lines <= 50, f"{node.name} has {lines} lines"


@pytest.mark.parametrize("path", [*OURS, *TESTS], ids=lambda p: p.name)
def test_banned_words(path):
    banned = "do" + "ne"
    assert not re.search(rf"\b{banned}s?\b", path.read_text()), f"say what ended: not '{banned}'"


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


def configurations():
    """The classes that stand on a ``Config``, with their files."""
    classes = [
        (path, node)
        for path in OURS
        for node in ast.walk(ast.parse(path.read_text()))
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
                missing.append(f"{path.relative_to(ROOT)}: {node.name}.{field.target.id}")
    assert not missing
    assert len(configurations()) > 60


def test_contracts_name_every_core():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    independent = next(c for c in contracts["contracts"] if c["type"] == "independence")
    assert independent["modules"] == ["fwrl.cores.*"]


def test_the_readme_names_only_what_exists():
    text = (ROOT / "README.md").read_text()
    for path in re.findall(r"(?:configs|docs|tests|benchmarks)/[\w./-]+\w", text):
        assert (ROOT / path).exists(), path
    for link in re.findall(r"\]\((?!http)([^)#]+)", text):
        assert (ROOT / link).exists(), link
