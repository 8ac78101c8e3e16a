"""Pages name only files, modules, functions, classes and configuration keys that exist."""

import ast
import json
import re
from functools import cache
from pathlib import Path

import pytest
import sb3_contrib
import stable_baselines3
from markdown_pages import FENCED, PAGES, ROOT, find_object, page_name, prose, titled_files

from envs.tasks import TASKS

OURS = "fwrl", "agents", "envs"
FOLDERS = *OURS, "tests", "configs", "docs", "benchmarks"
CODE = re.compile(r"`([^`\n]+)`")
FROM_ROOT = re.compile(r"(?<![\w/.-])(?:tests|configs|docs|benchmarks)/[\w./*-]+\w")
PATH = re.compile(r"(?:[\w.*-]+/)+(?:[\w.*-]+)?|[\w-]+\.(?:py|[ch])")
OBJECT = re.compile(rf"((?:{'|'.join(OURS)})(?:\.\w+)+)(?:\(.*\))?")
# an identifier is called, or has an underscore or a capital inside
IDENTIFIER = re.compile(r"(?:\w+\.)*(?:(\w+)\(.*\)|(\w*_\w+)|(\w*[a-z][A-Z]\w*))")
IMPORT = re.compile(rf"^from ((?:{'|'.join(OURS)})\S*) import (.+)$", re.MULTILINE)
# may name what existed at the time
HISTORY = ("docs/log.md",)
# names of other programs, and mathematics
FOREIGN = {
    "GLOO_SOCKET_IFNAME", "MaskVelocityWrapper", "NCCL_SOCKET_IFNAME", "black_death_v3",
    "hidden_state", "is_init", "lstm_states", "max_seq_len", "pettingzoo_env_to_vec_env_v1",
    "private_eye", "rl_zoo3", "rnn_states",
}  # fmt: skip
every_page = pytest.mark.parametrize("page", PAGES, ids=page_name)


def code_in(page):
    return CODE.findall(prose(page))


@cache
def files():
    below = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*")]
    return [path.relative_to(ROOT) for path in [*ROOT.iterdir(), *below]]


def is_file(path, page):
    """Whether a path or pattern is the end of a file's path, or names a file of the reader."""
    ids = [f"fwrl/{task}-v0" for task in TASKS]
    name = path.split("/")[-1]
    if name.startswith("my_") or name in titled_files(page) or path in ids:
        return True
    if "/" in path and path.split("/")[0] not in FOLDERS and not path.endswith(".py"):
        return True
    return any(file.match(path) for file in files())


def words_of(tree):
    """All identifiers of a module, and the words in its strings other than docstrings."""
    for node in ast.walk(tree):
        match node:
            case ast.Expr(value=ast.Constant() as docstring):
                docstring.value = ""
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name):
                yield name
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.alias(name=name):
                yield name
            case ast.keyword(arg=str(name)):
                yield name
            case ast.Constant(value=str(text)):
                yield from re.findall(r"\w+", text)


@cache
def known_words(*folders):
    words = set()
    for path in (path for folder in folders for path in Path(folder).rglob("*.*")):
        if path.suffix == ".py":
            words.update(words_of(ast.parse(path.read_text())))
        elif path.suffix in (".c", ".h", ".yaml"):
            words.update(re.findall(r"\w+", path.read_text()))
    return words


def is_known(word):
    if word in FOREIGN or word in known_words(*(ROOT / folder for folder in FOLDERS)):
        return True
    return word in known_words(*stable_baselines3.__path__, *sb3_contrib.__path__)


@every_page
def test_every_path_exists(page):
    assert not [code for code in code_in(page) if PATH.fullmatch(code) and not is_file(code, page)]
    # also in commands and programs
    assert not [path for path in FROM_ROOT.findall(page.read_text()) if not list(ROOT.glob(path))]


@every_page
def test_every_object_exists(page):
    named = [found[1] for code in code_in(page) if (found := OBJECT.fullmatch(code))]
    for _, block in FENCED.findall(page.read_text()):
        for module, names in IMPORT.findall(block):
            named += [f"{module}.{name.split()[0]}" for name in names.split(", ")]
    for name in named:
        assert find_object(name) is not None


@every_page
def test_every_identifier_exists(page):
    if page_name(page) in HISTORY:
        return
    names = [
        next(filter(None, found.groups()))
        for code in code_in(page)
        if not PATH.fullmatch(code) and (found := IDENTIFIER.fullmatch(code))
    ]
    assert not [name for name in names if not is_known(name)]


@cache
def keys():
    """All dotted keys of the configuration of a run, and the names of its sections."""
    schema = json.loads((ROOT / "configs/schema.json").read_text())
    found = {"": set()}

    def visit(node, prefix):
        node = schema["$defs"][node["$ref"].split("/")[-1]] if "$ref" in node else node
        for each in (*node.get("anyOf", ()), *node.get("oneOf", ())):
            visit(each, prefix)
        for name, field in node.get("properties", {}).items():
            found.setdefault(prefix, set()).add(name)
            visit(field, f"{prefix}{name}.")

    visit(schema, "")
    return found


@every_page
def test_every_configuration_key_exists(page):
    for code in code_in(page):
        section, name = re.fullmatch(r"((?:[a-z_]+\.)*)([a-z_]+)(?:=.*)?|.*", code).groups()
        if section and section in keys():
            assert name in keys()[section], code


def test_a_wrong_name_is_found():
    page = ROOT / "docs/api.md"
    assert not is_file("fwrl/never.py", page)
    assert not is_file("kernels/never.py", page)
    assert is_file("kernels/reference.py", page)
    assert not is_known("unheard_" + "of_word")
    assert IDENTIFIER.fullmatch("core.unroll(x)")[1] == "unroll"
    assert not IDENTIFIER.fullmatch("delta")
    assert "learning_rate" in keys()["ppo."]
    with pytest.raises(AttributeError):
        find_object("fwrl.cores.never")
