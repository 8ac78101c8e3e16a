"""The answers that an environment may give, and the line that names the part of any other."""

import gymnasium
import numpy as np
import pytest
from answering_env import ACCEPTED, LENGTH, REFUSED, Answering, registered_answers

from envs import EnvConfigError, EnvFailure, GymnasiumConfig, from_gymnasium, make_envs
from envs.check.conformance import check

SINCE = "step should return five values: observation, reward, terminated, truncated, info"


@pytest.fixture(autouse=True, scope="module")
def registered():
    with registered_answers():
        yield


def cases(table):
    return [(part, kind) for part, kinds in table.items() for kind in kinds]


def played(part, kind, env_id="Answering-v0"):
    """The steps of one episode beside a sound environment."""
    config = GymnasiumConfig(id=env_id, options={"part": part, "kind": kind})
    envs = make_envs(config, 2)
    envs.reset(0)
    return [envs.step(np.zeros(2, int)) for _ in range(LENGTH)]


@pytest.mark.parametrize(("part", "kind"), cases(ACCEPTED))
def test_what_means_a_number_or_a_flag_is_one(part, kind):
    steps, sound = played(part, kind), played("", "")
    for step, other in zip(steps, sound, strict=True):
        assert not step.faults
        for name in ("reward", "terminated", "truncated"):
            one, two = getattr(step, name), getattr(other, name)
            assert one.dtype == two.dtype
            assert np.array_equal(one, two)


@pytest.mark.parametrize("env_id", ["Answering-v0", "Limited-v0"])
@pytest.mark.parametrize(("part", "kind"), cases(REFUSED))
def test_whatever_else_is_a_fault_of_one_line_that_names_its_part(part, kind, env_id):
    steps = played(part, kind, env_id)
    assert [sorted(step.faults) for step in steps] == [[], [], [0, 1], [], []]
    bad = steps[2]
    assert bad.truncated.all()
    assert not bad.terminated.any()
    assert not bad.reward.any()
    for row, line in bad.faults.items():
        opening = f"{env_id}: slot {row}, episode seed {row}, after 3 actions: "
        assert line.startswith(opening)
        assert "\n" not in line
        words = {"raises": "", "step": SINCE}.get(part, f"{part}: ")
        assert words in line


def test_the_step_of_old_gym_is_called_so():
    *_, bad, _, _ = played("step", "old")
    assert f"it returned 4 values, as in old Gym; {SINCE}" in bad.faults[0]


def test_check_env_survives_another_instance_that_exits(monkeypatch):
    monkeypatch.setattr("envs.check.timing.SECONDS", 0.001)
    built, whole = [], Answering.step

    def step(self, action):
        if self not in built:
            built.append(self)
        # two are played, two more are compared with them; the next is stepped by itself
        if built.index(self) == 4:
            raise SystemExit(0)
        return whole(self, action)

    monkeypatch.setattr(Answering, "step", step)
    report = check(GymnasiumConfig(id="Answering-v0"), episodes=1, steps=20)
    (found,) = [finding for finding in report.findings if finding.name == "alone"]
    assert (found.verdict, found.what) == ("broken", "another instance raised SystemExit: 0")


@pytest.mark.parametrize(("part", "kind"), cases(REFUSED))
def test_check_env_finds_the_same(part, kind, monkeypatch):
    monkeypatch.setattr("envs.check.timing.SECONDS", 0.001)
    options = {"part": part, "kind": kind}
    report = check(GymnasiumConfig(id="Answering-v0", options=options), episodes=1, steps=20)
    assert not report.faithful
    assert any("slot 0" in finding.what for finding in report.findings)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (np.zeros(3), "it returned float64[3], without an info; reset should return two values"),
        (None, "it returned None, without an info"),
        ((np.zeros(3), np.zeros(3)), "info: float64[3]; it should be a dictionary"),
        ([0.0, 0.0], "info: 0.0 (float); it should be a dictionary"),
        ((np.zeros(2), {}), "observation: float64[2]; it should be float32[3]"),
        ((np.full(3, np.nan), {}), "observation: nan at [0], which is not finite"),
    ],
)
def test_a_reset_that_returns_something_else(answer, words, monkeypatch):
    monkeypatch.setattr(Answering, "reset", lambda self, **_: answer)
    envs = make_envs(GymnasiumConfig(id="Answering-v0"), 1)
    with pytest.raises(EnvFailure) as failure:
        envs.reset(0)
    assert f"reset: {words}" in str(failure.value)
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize(("kind", "error"), REFUSED["raises"].items())
def test_whatever_a_constructor_raises_is_one_line(kind, error, monkeypatch):
    def broken(self, *_):
        raise error

    monkeypatch.setattr(Answering, "__init__", broken)
    with pytest.raises(
        EnvConfigError, match=f"Answering-v0: cannot be built: {type(error).__name__}"
    ):
        make_envs(GymnasiumConfig(id="Answering-v0"), 2)


@pytest.mark.parametrize(("kind", "error"), REFUSED["raises"].items())
def test_whatever_a_close_a_rebuilding_or_a_picture_raises(kind, error, monkeypatch):
    def broken(self, *_):
        raise error

    config = GymnasiumConfig(id="Answering-v0", options={"part": "raises", "kind": "error"})
    envs = make_envs(config, 2)
    envs.reset(0)
    with monkeypatch.context() as patch:
        patch.setattr(Answering, "close", broken)
        # the environment that failed is closed before it is built again
        for number in range(LENGTH):
            assert bool(envs.step(np.zeros(2, int)).faults) == (number == 2)
        patch.setattr(Answering, "render", broken)
        patch.setattr(Answering, "render_mode", "rgb_array")
        with pytest.raises(EnvFailure, match="Answering-v0: render: "):
            envs.render()
        with pytest.warns(RuntimeWarning, match=f"close: {type(error).__name__}"):
            envs.close()


@pytest.mark.parametrize("kind", ["exit", "panic"])
def test_a_replay_may_raise_it_too(kind, monkeypatch):
    config = GymnasiumConfig(id="Answering-v0", options={"part": "raises", "kind": kind})
    envs = make_envs(GymnasiumConfig(id="Answering-v0"), 2)
    envs.reset(0)
    for _ in range(4):
        envs.step(np.zeros(2, int))
    assert make_envs(config, 2).restore(envs.state()).anew.all()


class Success(Answering):
    def step(self, action):
        *answer, _ = super().step(action)
        return *answer, {"is_success": np.zeros(2) if self.time == LENGTH else None}


def test_a_success_that_is_no_flag():
    gymnasium.register("Success-v0", Success)
    envs = make_envs(GymnasiumConfig(id="Success-v0"), 1)
    envs.reset(0)
    steps = [envs.step(np.zeros(1, int)) for _ in range(LENGTH)]
    del gymnasium.registry["Success-v0"]
    assert "info['is_success']: float64[2]; it should be True or False" in steps[-1].faults[0]


@pytest.mark.parametrize(
    ("part", "kind"), [("raises", "exit"), ("raises", "panic"), ("reward", "nan")]
)
def test_a_vector_environment_of_somebody_else_ends_in_one_line(part, kind):
    vector = gymnasium.vector.SyncVectorEnv(
        [lambda: Answering(part, kind, always=True)],
        autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP,
    )
    envs = from_gymnasium(vector)
    envs.reset(0)
    with pytest.raises(EnvFailure) as failure:
        envs.step(np.zeros(1, int))
    assert "\n" not in str(failure.value)
