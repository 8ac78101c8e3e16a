"""Wrong configurations are refused, and failures of environments are reported."""

import importlib
import os

import numpy as np
import pytest
from command_line import run_command
from counting_gymnasium_env import CountingEnv, registered_envs
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from pydantic import TypeAdapter, ValidationError

import envs
from envs import EnvConfigError, GymnasiumConfig, from_gymnasium, make_envs
from envs.gymnasium_env import LABYRINTHS, RESERVED
from envs.workers.in_workers import in_workers


@pytest.fixture(autouse=True, scope="module")
def registered():
    with registered_envs():
        yield


@pytest.mark.parametrize(
    ("space", "at"),
    [
        (spaces.Text(5), "observation"),
        (spaces.Dict({"a": spaces.Tuple([spaces.Text(5)])}), "observation"),
        (spaces.Tuple([spaces.Discrete(2)]), "action"),
    ],
)
def test_spaces_that_are_no_arrays_are_refused(space, at):
    def make():
        env = CountingEnv()
        setattr(env, f"{at}_space", space)
        return env

    with pytest.raises(EnvConfigError, match=rf"{at}s in .* are not supported") as error:
        from_gymnasium(SyncVectorEnv([make], autoreset_mode=AutoresetMode.SAME_STEP))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"id": "CartPole-v9"}, "no environment 'CartPole-v9'; did you mean 'CartPole-v1'"),
        ({"id": "fwrl/RepeatFrist-v0"}, "did you mean 'fwrl/RepeatFirst-v0'"),
        ({"id": "popgym-RepeatFirst-v0"}, "did you mean 'popgym-RepeatFirst"),
        ({"id": "CartPole-v1", "options": {"gravity": 1}}, "no option 'gravity'.*sutton_barto"),
        ({"id": "Counting-v0", "options": {"hight": 1}}, "no option 'hight'.*height"),
        ({"id": "fwrl/RepeatFirst-v0", "options": {"lvl": 1}}, "no option 'lvl'.*level"),
        ({"id": "fwrl/RepeatFirst-v0", "options": {"level": "x"}}, "level is 'x'"),
        ({"id": "MiniGrid-MemoryS11-v0", "options": {"sise": 1}}, "no option 'sise'.*size"),
        ({"id": "MiniGrid-MemoryS11-v0", "options": {"size": "big"}}, "MiniGrid-MemoryS11-v0 with"),
        ({"id": "Pendulum-v1", "action_mask": True}, "cannot be masked"),
        ({"id": "CartPole-v1", "observation_indices": [0, 4]}, "no entry 4; the last is 3"),
        ({"id": "fwrl/RepeatFirst-v0", "observation_indices": [0]}, "has no entries to choose"),
        ({"id": "Breaking-v0", "workers": 2, "options": {"observation": "x"}}, "'x'"),
    ],
)
def test_mistakes_are_one_line_that_says_what_is_right(config, message):
    with pytest.raises(EnvConfigError, match=message) as error:
        make_envs(GymnasiumConfig(**config), 2)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("indices", [[], [-1], [1, 0, 1], [0.5]])
def test_entries_that_are_no_choice(indices):
    with pytest.raises(ValidationError):
        GymnasiumConfig(id="CartPole-v1", observation_indices=indices)


def test_an_extra_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "popgym", None)
    with pytest.raises(EnvConfigError, match=r"pip install fwrl\[pomdp\]"):
        make_envs(GymnasiumConfig(id="popgym-RepeatFirstEasy-v0"))


def test_a_package_that_cannot_be_imported_is_named_with_the_reason(monkeypatch):
    whole = importlib.import_module

    def broken(name):
        if name == "popgym":
            raise ModuleNotFoundError("No module named 'cython'")
        return whole(name)

    monkeypatch.setattr("envs.gymnasium_env.importlib.import_module", broken)
    with pytest.raises(EnvConfigError, match=r"popgym cannot be imported: .*'cython'"):
        make_envs(GymnasiumConfig(id="popgym-RepeatFirstEasy-v0"))
    # what else there is can still be listed
    assert "CartPole-v1" in envs.env_names()["gymnasium"]


@pytest.mark.parametrize("env_id", LABYRINTHS)
def test_a_labyrinth_says_what_it_needs(env_id, monkeypatch, capsys):
    missing = "mazelib"
    found = importlib.util.find_spec
    without = lambda name: None if name == missing else found(name)  # noqa: E731
    monkeypatch.setattr("envs.gymnasium_env.util.find_spec", without)
    line = f"{env_id!r} needs another package; `pip install 'mazelib'` brings it"
    with pytest.raises(EnvConfigError) as error:
        make_envs(GymnasiumConfig(id=env_id))
    assert str(error.value) == line
    assert run_command("check-env", env_id) == 2
    assert capsys.readouterr().err == f"fwrl: {line}\n"
    assert env_id in envs.env_names()["popgym, after pip install 'mazelib'"]


def test_whatever_is_listed_can_be_built_or_says_what_to_install():
    listed = {family: names for family, names in envs.env_names().items() if family != "atari"}
    # of large families some are enough
    chosen = {family: names[:: 1 + len(names) // 12] for family, names in listed.items()}
    for family, names in chosen.items():
        for name in names:
            config = GymnasiumConfig(id=name)
            if ", after pip install" not in family:
                make_envs(config, 1).close()
                continue
            words = family.partition(", after pip install ")[2]
            with pytest.raises(EnvConfigError, match="needs another package") as error:
                make_envs(config, 1)
            assert f"`pip install {words}`" in str(error.value)


def test_ids_that_import_code_are_refused():
    with pytest.raises(ValidationError, match="asks to import code"):
        GymnasiumConfig(id="os:CartPole-v1")


@pytest.mark.parametrize("name", RESERVED)
def test_options_that_gymnasium_keeps_for_itself_are_refused(name):
    with pytest.raises(ValidationError, match="is not an option"):
        GymnasiumConfig(id="CartPole-v1", options={name: 1})


def test_kind_is_gymnasium_unless_said():
    adapter = TypeAdapter(envs.EnvConfig)
    assert adapter.validate_python({"id": "CartPole-v1"}) == GymnasiumConfig(id="CartPole-v1")
    assert adapter.validate_python({"kind": "atari", "game": "pong"}).kind == "atari"
    assert set(envs.ENVS) == {"gymnasium", "atari", "on_device", "pettingzoo"}


@pytest.mark.parametrize("workers", [0, 2])
def test_observations_of_another_shape_are_faults_of_the_environment(workers):
    two = make_envs(GymnasiumConfig(id="Shapeless-v0", workers=workers), 2)
    two.reset(0)
    step = two.step(np.zeros(2, int))
    assert sorted(step.faults) == [0, 1]
    assert all("it should be" in what for what in step.faults.values())
    assert step.truncated.all()
    two.close()


def tell_threads():
    raise EnvConfigError(os.environ["OMP_NUM_THREADS"])


def test_a_worker_has_one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    with pytest.raises(EnvConfigError, match=r"^1$"):
        in_workers([tell_threads])
    assert os.environ["OMP_NUM_THREADS"] == "7"


def test_environment_names_by_family():
    names = envs.env_names()
    assert "fwrl/RepeatFirst-v0" in names["fwrl"]
    assert "pong" in names["atari"]
    assert "CartPole-v1" in names["gymnasium"]
    assert "popgym-RepeatFirstEasy-v0" in names["popgym"]
    assert "MiniGrid-MemoryS11-v0" in names["minigrid"]
