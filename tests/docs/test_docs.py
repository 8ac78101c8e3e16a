"""The pages of Markdown: all in the navigation, no link leads nowhere, no command is mistyped."""

import ast
import inspect
import json
import re
import runpy
import shlex
import sys
import tomllib
from pathlib import Path
from urllib.parse import unquote

import gymnasium
import pytest
import yaml
from command_line import run_command
from markdown_pages import FENCED, PAGES, ROOT, page_name, prose, titled_files
from sb3_contrib import RecurrentPPO
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from typer.main import get_command

from agents.ppo import PPOConfig
from fwrl.bench import find_benchmark
from fwrl.cli.app import app
from fwrl.cli.bench import settings_of
from fwrl.config import ConfigError
from fwrl.run.config import RunConfig, load_run_config

every_page = pytest.mark.parametrize("page", PAGES, ids=page_name)
CITED = re.compile(r"([A-Z]\w+(?: et al\.|(?: and [A-Z]\w+)))\s\(?((?:19|20)\d\d[ab]?)")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def navigation(entries):
    for entry in entries:
        for target in entry.values():
            yield from [target] if isinstance(target, str) else navigation(target)


def test_every_page_stands_in_the_navigation_once():
    patterns = list(navigation(yaml.safe_load((ROOT / "docs/site/mkdocs.yml").read_text())["nav"]))
    found = [path for pattern in patterns for path in ROOT.glob(pattern)]
    assert sorted(found) == PAGES


def anchors(page):
    """The anchors of the headings of a page, on code hosts and in the site alike."""
    text = prose(page)
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        plain = re.sub(r"[^\w\s-]", "", heading.replace("`", "")).strip().lower()
        yield re.sub(r"\s", "-", plain)


@every_page
def test_every_link_leads_somewhere(page):
    text = re.sub(r"`[^`\n]+`", "", prose(page))
    for link in LINK.findall(text):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_relative_to(ROOT), link
        assert target.is_file(), link
        assert not anchor or anchor in anchors(target), link


@every_page
def test_every_source_is_among_the_references(page):
    listed = (ROOT / "docs/references.md").read_text()
    text = re.sub(r"`[^`]+`", "", page.read_text()).replace("\n", " ")
    for authors, year in CITED.findall(text):
        assert f"{authors} {year}.**" in listed, f"{authors} {year}"


def in_the_site():
    """All files that `make docs` copies, by what its hook says."""
    hook = ast.parse((ROOT / "docs/site/pages.py").read_text())
    values = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in hook.body
        if isinstance(node, ast.Assign) and node.targets[0].id in ("OUTSIDE", "KINDS")
    }
    inside = [path for path in (ROOT / "docs").rglob("*") if path.suffix in values["KINDS"]]
    return {*inside, *(path for pattern in values["OUTSIDE"] for path in ROOT.glob(pattern))}


def test_the_site_has_every_file_that_a_page_links_to():
    files = in_the_site()
    for page in PAGES:
        text = re.sub(r"`[^`\n]+`", "", prose(page))
        for link in LINK.findall(text):
            path = unquote(link).partition("#")[0]
            if path and "://" not in path:
                assert (page.parent / path).resolve() in files, f"{page.stem}: {link}"


def commands(page):
    """Each command of ``fwrl`` in a page, as words, and the line that is printed after it."""
    for _, block in FENCED.findall(page.read_text()):
        # some go on in the next line
        lines = re.sub(r"\\?\n[ \t]+", " ", block)
        for line, answer in re.findall(r"^(?:\$ )?(fwrl [^\n]*)\n(fwrl: [^\n]*)?", lines, re.M):
            yield shlex.split(line, comments=True), answer


COMMANDS = [
    pytest.param(words, answer, id=f"{page.stem}: {' '.join(words)}")
    for page in PAGES
    for words, answer in commands(page)
]


def test_commands_are_found():
    assert len(COMMANDS) > 80


@every_page
def test_no_command_writes_where_published_results_are(page):
    # what is there is kept: the command would train nothing, and show our numbers as the reader's
    assert "--out docs" not in page.read_text()


@pytest.mark.parametrize(("words", "answer"), COMMANDS)
def test_every_command_could_be_typed(words, answer):
    _, name, *words = words
    known = get_command(app).commands[name]
    while hasattr(known, "commands"):
        name, *words = words
        known = known.commands[name]
    options = {
        o for parameter in known.params for o in (*parameter.opts, *parameter.secondary_opts)
    }
    assert {w for w in (word.strip("[]") for word in words) if w.startswith("--")} <= options
    if any(("[" in word and "=" not in word) or word.isupper() for word in words):
        return
    given = known.make_context(name, words).params
    if answer:
        with pytest.raises(ConfigError, match=re.escape(answer.removeprefix("fwrl: "))):
            check_values(name, given)
    else:
        check_values(name, given)


def check_values(name, given):
    overrides = given.get("overrides") or []
    if name == "train" and (ROOT / given["config"]).exists():
        load_run_config(ROOT / given["config"], overrides)
    elif name == "bench":
        settings_of(find_benchmark(given["name"]), given["preset"], overrides)
    elif name in ("compare", "tune") and str(given["file"]).startswith("configs/"):
        assert (ROOT / given["file"]).is_file()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where what the pages ask for has been written to files."""
    for page in ("docs/tutorial.md", "docs/migrating.md", "docs/python.md"):
        for name, text in titled_files(ROOT / page).items():
            (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("my_envs", None)
    gymnasium.registry.pop("Remember-v0", None)


@pytest.mark.parametrize(
    "record", sorted(ROOT.glob("docs/results/*/results.json")), ids=lambda path: path.parent.name
)
def test_recorded_commands_name_no_place_outside_of_the_repository(record):
    words = shlex.split(json.loads(record.read_text())["command"])
    assert words[0] == "fwrl"
    assert not [word for word in words if re.search(r"(^|=)[~/]", word)]


def test_the_page_on_installation_has_every_extra():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    text = (ROOT / "docs/installation.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \|", text.split("## Extras")[1], re.MULTILINE)
    assert sorted(rows) == sorted(project["optional-dependencies"])


IMPORTED = ("--import", "my_envs")


def test_what_the_tutorial_writes_is_an_environment_a_run_and_a_program(folder):
    assert run_command("check-env", "Remember-v0", *IMPORTED, "--steps", "100") == 0
    short = ("total_steps=500", "evaluation.episodes=2", "env.num_envs=8")
    assert run_command("train", "mine.yaml", *IMPORTED, *short, "--run-dir", "runs/mine") == 0
    runpy.run_path("play.py")


@pytest.mark.slow
def test_what_the_tutorial_compares_can_be_compared(folder):
    short = ("total_steps=500", "seeds=[0]", "episodes=2", "--jobs", "1", "--out", "out")
    assert run_command("compare", "memories.yaml", *IMPORTED, *short) == 0
    assert "| remember |" in Path("out/table.md").read_text()


@pytest.mark.slow
def test_what_the_page_on_recurrent_ppo_writes_runs(folder):
    assert run_command("train", "cart_pole.yaml", "total_steps=2000") == 0
    runpy.run_path("predict.py")
    runpy.run_path("loop.py")


def rows():
    """Names, default, names and default of each argument in the page on RecurrentPPO."""
    text = (ROOT / "docs/migrating.md").read_text().split("## Everything else")[0]
    for row in re.findall(r"^\|(.*)\|(.*)\|(.*)\|(.*)\|$", text, re.MULTILINE):
        names = re.findall(r"`([^`]+)`", row[0])
        if names and "default" not in row[1]:
            yield names, row[1].strip(" `"), row[2], row[3].strip(" `")


def parameters():
    return {
        **inspect.signature(RecurrentActorCriticPolicy.__init__).parameters,
        **inspect.signature(RecurrentPPO.__init__).parameters,
    }


def ours(key):
    """The default at a dotted key, which exists."""
    model = RunConfig.model_construct(env=None)
    *path, last = key.split(".")
    for name in path:
        model = getattr(model, name)
    return type(model).model_fields[last].get_default(call_default_factory=True)


def test_every_argument_of_recurrent_ppo_has_a_row():
    there = {name for names, *_ in rows() for name in names}
    not_asked = {"self", "observation_space", "action_space", "lr_schedule", "_init_setup_model"}
    assert there == set(parameters()) - not_asked


def test_defaults_on_both_sides_are_true():
    compared = 0
    for names, default, here, our_default in rows():
        keys = re.findall(r"`((?:ppo|stack|core|encoder|critic|action|seed|device)[\w.]*)`", here)
        values = [ours(key) for key in keys if key != "core.kind"]
        if default:
            compared += 1
            assert str(parameters()[names[0]].default) == default, names
        if our_default and keys != ["core.kind"]:
            compared += 1
            assert yaml.safe_load(our_default.replace("None", "null")) == values[0], names
        synonym = PPOConfig.synonyms.get(names[0])
        assert synonym is None or f"ppo.{synonym}" in keys, names
    assert compared > 30
