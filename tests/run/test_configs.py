"""Every file in configs/ works, says only what differs, and the schema beside them is current."""

import runpy
from pathlib import Path

import pytest
import yaml

from envs.tasks import TASKS
from fwrl.cores.lstm import LSTMConfig
from fwrl.run.build import prepare
from fwrl.run.config import RunConfig, load_run_config
from fwrl.run.precision import settled

ROOT = Path(__file__).parents[2]
# those of other commands than train
OTHERS = {"compare", "tune"}
FILES = [
    path for path in sorted((ROOT / "configs").rglob("*.yaml")) if path.parent.name not in OTHERS
]
every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)

# minigrid's and popgym's own imports and environments warn
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


@every_file
def test_environments_and_policy_can_be_made(path):
    config = load_run_config(path, ["env.num_envs=2", "ppo.minibatches=2"])
    setup = prepare(settled(config, None))
    setup.envs.close()
    setup.evaluation_envs.close()


@every_file
def test_only_differences_from_the_defaults_are_written(path):
    written = yaml.safe_load(path.read_text())
    config = load_run_config(path)

    def compare(model, values, where):
        for name, value in values.items():
            field = type(model).model_fields[name]
            child = getattr(model, name)
            if isinstance(value, dict) and hasattr(child, "model_fields"):
                compare(child, value, f"{where}.{name}")
            elif name != "kind" and not field.is_required():
                assert child != field.get_default(call_default_factory=True), f"{where}.{name}"

    compare(config, written, path.stem)


def test_every_own_task_has_a_configuration():
    used = {load_run_config(path).model_dump()["env"].get("id") for path in FILES}
    assert {f"fwrl/{name}-v0" for name in TASKS} <= used


def test_a_configuration_survives_its_own_file():
    for path in FILES:
        config = load_run_config(path)
        dumped = yaml.safe_dump(config.model_dump(mode="json"))
        assert RunConfig.model_validate(yaml.safe_load(dumped)) == config


def test_numbers_are_read_as_people_write_them(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("env: {id: CartPole-v1}\ntotal_steps: 1e6\nppo: {learning_rate: 3e-4}")
    config = load_run_config(file, ["ppo.clip=1e-1", "seed=7"])
    assert (config.total_steps, config.ppo.learning_rate) == (1_000_000, 3e-4)
    assert (config.ppo.clip, config.seed) == (0.1, 7)


def test_another_kind_starts_from_its_own_defaults(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("env: {id: CartPole-v1}\ntotal_steps: 1\ncore: {kind: fast_weight, heads: 2}")
    # in whatever order they are typed
    config = load_run_config(file, ["core.hidden_size=8", "core.kind=lstm"])
    assert config.core == LSTMConfig(hidden_size=8)
    assert load_run_config(file, ["core.kind=fast_weight"]).core.heads == 2
    assert load_run_config(file, ["core.heads=8"]).core.heads == 8


def test_pages_made_from_the_code_are_current(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    pages = runpy.run_path(str(ROOT / "docs/generate.py"))["PAGES"]
    for path, page in pages.items():
        assert (ROOT / path).read_text() == page(), f"{path}: run python docs/generate.py"
