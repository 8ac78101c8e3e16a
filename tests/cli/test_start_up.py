"""Commands that start without importing PyTorch, though public names are those of full modules."""

import inspect
import subprocess
import sys

import pytest
from saved_runs import saved_run

import fwrl
from envs.tasks import TASKS
from fwrl.cli.listing import summaries
from fwrl.cores import CORES
from fwrl.feature_maps import FEATURE_MAPS
from fwrl.update_rules import UPDATE_RULES

# What a command without tensors has no business with.
HEAVY = {"torch", "gymnasium", "matplotlib", "stable_baselines3", "safetensors", "agents"}
RUN = """
import sys
from fwrl.cli import main
try:
    main()
finally:
    print("IMPORTED", *sys.modules, file=sys.stderr)
"""


HELP = [["--help"], ["list"], ["bench", "--help"], ["list", "benchmarks"]]
MISSPELT = [
    ["list", "corez"],
    ["train", "nothing.yaml"],
    ["evaluate", "nowhere"],
    ["export", "nowhere", "policy.safetensors"],
    ["hub", "push", "nowhere.safetensors", "me/agent"],
    ["inspect", "nowhere"],
    ["bench", "retreival"],
    ["compare", "nothing.yaml"],
    ["tune", "nothing.yaml"],
]


@pytest.mark.parametrize("words", [*HELP, *MISSPELT])
def test_commands_that_need_no_tensors_import_none(words):
    ended = subprocess.run(
        [sys.executable, "-c", RUN, *words], capture_output=True, text=True, check=False
    )
    assert ended.returncode == (2 if words in MISSPELT else 0)
    imported = ended.stderr.partition("IMPORTED")[2].split()
    assert "fwrl.cli.app" in imported
    assert not HEAVY & set(imported)


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1", "fwrl/RepeatPrevious-v0"])
def test_evaluating_does_not_import_the_compiler(env, tmp_path):
    # it takes 1.6 s of processor time
    run = saved_run(tmp_path / "run", env={"id": env})
    words = ["evaluate", str(run), "--episodes", "1"]
    ended = subprocess.run(
        [sys.executable, "-c", RUN, *words], capture_output=True, text=True, check=True
    )
    imported = ended.stderr.partition("IMPORTED")[2].split()
    assert "torch" in imported
    assert "torch._dynamo" not in imported


def test_every_public_name_is_reached_and_is_what_its_module_has():
    assert sorted(fwrl.__all__) == sorted(fwrl._MODULES)
    assert set(dir(fwrl)) >= set(fwrl.__all__)
    for name, home in fwrl._MODULES.items():
        namespace = {}
        exec(f"from fwrl import {name}\nfrom fwrl.{home} import {name} as it", namespace)
        assert namespace[name] is namespace["it"] is getattr(fwrl, name)
    with pytest.raises(AttributeError, match="no attribute 'CORE'"):
        fwrl.__getattr__("CORE")


def test_names_for_type_checkers_are_those_that_are_imported_when_used():
    source = inspect.getsource(fwrl)
    block = source.partition("if TYPE_CHECKING:")[2].partition("__all__")[0]
    stated = {}
    for line in filter(None, block.splitlines()):
        module, _, names = line.strip().removeprefix("from fwrl.").partition(" import ")
        stated |= dict.fromkeys(names.split(", "), module)
    assert stated == fwrl._MODULES


@pytest.mark.parametrize(
    ("module", "name", "table"),
    [
        ("fwrl.cores", "CORES", CORES),
        ("fwrl.update_rules", "UPDATE_RULES", UPDATE_RULES),
        ("fwrl.feature_maps", "FEATURE_MAPS", FEATURE_MAPS),
        ("envs.tasks", "TASKS", TASKS),
    ],
)
def test_tables_read_from_source_are_the_tables(module, name, table):
    documented = {key: getattr(entry, "apply", entry) for key, entry in table.items()}
    expected = {key: inspect.getdoc(entry).partition("\n")[0] for key, entry in documented.items()}
    assert list(summaries(module, name).items()) == list(expected.items())
