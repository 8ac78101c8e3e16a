"""A list of memories in a configuration: files, overrides, mistakes, and what is stored of it."""

import json

import pytest
import yaml
from command_line import run_command
from mixed_stacks import MIXES, override_of

import fwrl
from agents.policy import PolicyConfig
from fwrl.bench.lm.benchmark import LanguageModelSettings
from fwrl.cli.compare.settings import load_comparison, runs_of
from fwrl.cli.tune.settings import load_tuning, trial_config
from fwrl.config import ConfigError, validate, validate_stored
from fwrl.cores import CORES
from fwrl.run.config import RunConfig, changes, load_run_config, trained_with
from fwrl.run.yaml_files import differences, flat
from fwrl.stack import StackConfig

GRU, FAST, ONE_HEAD = CORES["gru"](), CORES["fast_weight"](), CORES["fast_weight"](heads=1)
TRAINING = """
env: {id: fwrl/RepeatPrevious-v0, num_envs: 2}
core: [{kind: gru, hidden_size: 8}, {heads: 1}]
stack: {width: 8}
ppo: {num_steps: 8, minibatches: 1, epochs: 1}
evaluation: {every_steps: 32, episodes: 1, num_envs: 1}
total_steps: 32
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mixed.yaml"
    path.write_text(TRAINING)
    return path


def test_there_are_as_many_layers_as_memories(file):
    config = load_run_config(file)
    assert config.core == (CORES["gru"](hidden_size=8), ONE_HEAD)
    assert config.stack.layers == config.policy.stack.layers == 2
    assert load_run_config(file, ["stack.layers=2"]) == config
    # what stands in its place in a file is left as it is
    assert load_run_config(file, ["core={kind: gru}"]).stack.layers == 1
    policy = PolicyConfig(core=[GRU, FAST, GRU], stack=StackConfig(width=8))
    assert (policy.stack.layers, policy.stack.width) == (3, 8)
    assert PolicyConfig(core=(GRU, FAST)).stack.layers == 2


@pytest.mark.parametrize("name", MIXES)
def test_it_survives_its_own_file(name, file):
    config = load_run_config(file, [override_of(name)])
    assert config.core == MIXES[name]
    stored = yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json")))
    assert validate_stored(RunConfig, stored) == config
    assert [each["kind"] for each in stored["core"]] == [each.kind for each in MIXES[name]]
    policy = json.loads(json.dumps(config.policy.model_dump(mode="json")))
    assert validate_stored(PolicyConfig, policy) == config.policy


@pytest.mark.parametrize(
    ("overrides", "core"),
    [
        (["core.1.heads=2"], [CORES["gru"](hidden_size=8), CORES["fast_weight"](heads=2)]),
        (["core.0.kind=lstm"], [CORES["lstm"](), ONE_HEAD]),
        (["core.0.hidden_size=4", "core.0.kind=lstm"], [CORES["lstm"](hidden_size=4), ONE_HEAD]),
        (["core.kind=none"], [CORES["none"]()] * 2),
        # each keeps what it has of its own kind
        (["core.kind=fast_weight"], [FAST, ONE_HEAD]),
        (["core.hidden_size=5", "core.kind=gru"], [CORES["gru"](hidden_size=5)] * 2),
        (["core.1.hidden_size=4", "core=[{}, {kind: gru}]"], [FAST, CORES["gru"](hidden_size=4)]),
        (["core.0={kind: lru}"], [CORES["lru"](), ONE_HEAD]),
        (["core={kind: lru}"], CORES["lru"]()),
    ],
)  # fmt: skip
def test_a_number_leads_to_one_memory_and_a_name_to_all(overrides, core, file):
    wanted = tuple(core) if isinstance(core, list) else core
    assert load_run_config(file, overrides).core == wanted


MISTAKES = {
    "core=[]": "core has 0 entries; it should have 1 or more",
    "core=[{}, {kind: gruu}]": "core.1.kind is 'gruu'; did you mean 'gru'?",
    "core=[{kind: 3}]": f"core.0.kind is '3'; choose from {', '.join(CORES)}",
    "core=[{}, gru]": "core.1 is 'gru'; it should be a valid dictionary or object to extract "
    "fields from",
    "core.1.haeds=2": "core.1.haeds: no such key; did you mean 'heads'?",
    "core.heads=2": "core.0.heads: no such key; choose from hidden_size, kind",
    "core.1.heads=0": "core.1.heads is 0; it should be greater than 0",
    "core.2.kind=gru": "core.2.kind: core has 2 entries, the first is core.0",
    "stack.layers=3": "stack: layers is 3; core is a list of 2, so it should be 2 or be left out",
    "ppo.0.clip=1": "ppo.0: no such key; a number leads into a list, and this is none",
    "core.0.kind.x=1": "core.0.kind.x: core.0.kind is 'gru', which has no keys inside",
}  # fmt: skip


@pytest.mark.parametrize(("override", "message"), MISTAKES.items(), ids=MISTAKES)
def test_a_mistake_is_one_line_with_its_place(override, message, file, capsys):
    with pytest.raises(ConfigError) as error:
        load_run_config(file, [override])
    assert str(error.value) == message
    assert run_command("train", file, override) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_too_long_a_list_is_refused():
    with pytest.raises(ConfigError, match=r"^core has 1025 entries; it should have at most 1024"):
        validate(PolicyConfig, {"core": [{}] * 1025})


def test_what_differs_is_said_by_its_place(file):
    one, two = load_run_config(file), load_run_config(file, ["core.0.kind=lstm", "core.1.heads=2"])
    before, now = trained_with(one), trained_with(two)
    said = ["core.0.kind ('gru' there, 'lstm' here)", "core.1.heads (1 there, 2 here)"]
    assert differences(before, now) == said
    told = changes(before, two)
    assert "core.0.kind was 'gru' and is 'lstm'" in told
    assert "core.1.heads was 1 and is 2" in told
    assert flat(before, lists=True)["core.1.kind"] == "fast_weight"
    assert flat(before)["core"] == before["core"]


def test_commands_and_programs_train_the_same_run(file, tmp_path, capsys):
    assert run_command("train", file, "--run-dir", "one", "core.1.heads=2") == 0
    assert "gru+fast_weight memory of" in capsys.readouterr().out
    core = [{"kind": "gru", "hidden_size": 8}, {"kind": "fast_weight", "heads": 2}]
    run = fwrl.train(str(file), {"core": core, "env": {"num_envs": 2}}, run_dir="two")
    one, two = ((tmp_path / name / "config.yaml").read_text() for name in ("one", "two"))
    assert one == two
    # the configuration that it stored goes on
    again = fwrl.train(run.config, run_dir="two")
    assert (run.finished, again.finished) == (True, True)
    assert (
        run_command("train", tmp_path / "two/config.yaml", "--run-dir", "two", "core.0.kind=lstm")
        == 2
    )
    assert "core.0.kind ('gru' there, 'lstm' here)" in capsys.readouterr().err
    assert run_command("diagnose", "one") == 0


def test_columns_of_a_comparison_and_the_space_of_a_search(file, tmp_path):
    table, search = tmp_path / "table.yaml", tmp_path / "search.yaml"
    columns = {"mixed": [], "control": ["core.kind=none"], "other": ["core=[{}, {kind: lru}]"]}
    table.write_text(yaml.safe_dump({"tasks": {"a": {"config": str(file)}}, "columns": columns}))
    runs = {run.column: run.config for run in runs_of(load_comparison(table, []), tmp_path / "out")}
    assert [run.stack.layers for run in runs.values()] == [2, 2, 2]
    assert runs["control"].core == (CORES["none"](),) * 2
    space = {"core.0.kind": {"choices": ["gru", "lstm"]}, "core.1.heads": {"low": 1, "high": 4}}
    search.write_text(yaml.safe_dump({"config": str(file), "space": space, "total_steps": 32}))
    tuning = load_tuning(search, [])
    trial = trial_config(tuning, {"core.0.kind": "lstm", "core.1.heads": 4}, 0, "trial")
    assert trial.core == (CORES["lstm"](), CORES["fast_weight"](heads=4))
    search.write_text(search.read_text().replace("heads", "haeds"))
    with pytest.raises(ConfigError, match=r"^space: core\.1\.haeds: no such key; did you mean"):
        load_tuning(search, [])


def test_a_language_model_of_several_memories():
    values = {"cores": {"mine": [{}, {"kind": "gru"}]}, "methods": ["mine"]}
    assert validate(LanguageModelSettings, values).cores["mine"] == (FAST, GRU)
    with pytest.raises(ConfigError, match=r"^cores\.mine: model\.layers is 3; core is a list of 2"):
        validate(LanguageModelSettings, values | {"model": {"layers": 3}})
