"""The diagnosis of a run: each cause from its curves, and nothing where there is nothing."""

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import run_command
from hypothesis import given
from hypothesis import strategies as st

from fwrl.config import validate
from fwrl.cores import CORES
from fwrl.run import diagnosis
from fwrl.run.config import RunConfig
from fwrl.run.diagnosis import CAUSES, LENGTH, REMARKS, Finding, in_one_line, of_several
from fwrl.run.history import RETURN, SPREAD, History
from fwrl.run.log import METRICS
from fwrl.run.yaml_files import apply_overrides

ROWS, STEPS = 40, 400_000
# A run that has learned: its return rises, its policy moves, its critic foresees.
HEALTHY = {
    RETURN: np.linspace(-1, 1, ROWS),
    SPREAD: np.full(ROWS, 0.5),
    LENGTH: np.full(ROWS, 50.0),
    "eval/mean_reward": np.linspace(-1, 1, 4),
    "train/approx_kl": np.full(ROWS, 0.01),
    "train/clip_fraction": np.full(ROWS, 0.1),
    "train/explained_variance": np.linspace(0, 0.9, ROWS),
    "train/entropy_loss": np.linspace(-1.4, -0.2, ROWS),
    "train/value_gradient_ratio": np.linspace(90, 0.5, 4),
    "rollout/large_reward_share": np.full(4, 0.2),
    "rollout/observation_share": np.ones(4),
    "memory/beta": np.full(4, 0.55),
    "memory/key_overlap": np.full(4, 0.65),
    "health/skipped_updates": np.zeros(ROWS),
}
# A policy that learns to be still, as noise costs and nothing else ever happens.
IDLE = {
    RETURN: np.linspace(-50, -12, ROWS),
    LENGTH: np.full(ROWS, 999.0),
    "eval/mean_reward": [-3, -1, -0.2],
    "train/explained_variance": np.zeros(ROWS),
    "train/std": np.linspace(1, 0.3, ROWS),
}
FLAT = {RETURN: np.resize([-0.5, -0.4, -0.6], ROWS), "eval/mean_reward": np.full(4, -0.5)}


def history(changes, overrides=(), head="linear"):
    values = {"env": {"id": "CartPole-v1", "num_envs": 8}, "total_steps": STEPS}
    rate = {"learning_rate": 3e-4, "learning_rate_schedule": "constant"}
    values |= {"ppo": rate | dict(overrides), "critic": {"head": head}}
    curves = {name: np.zeros((0, 2)) for name in METRICS}
    for name, numbers in (HEALTHY | changes).items():
        steps = np.linspace(STEPS / max(len(numbers), 1), STEPS, len(numbers))
        curves[name] = np.stack([steps, np.asarray(numbers, float)], axis=1)
    return History(validate(RunConfig, values), curves)


def names(run):
    return [found.name for check in (*CAUSES, *REMARKS) if (found := check(run))]


def test_a_healthy_run_says_nothing():
    assert names(history({})) == []
    for changes in (
        # costs that a policy learns to avoid: its critic foresees them, or its episodes end
        {"train/explained_variance": np.linspace(0, 0.9, ROWS)},
        {LENGTH: np.linspace(999, 300, ROWS)},
        {"eval/mean_reward": [-40, -20, -8]},
    ):
        assert "goal never reached" not in names(history(IDLE | changes))


@pytest.mark.parametrize(
    ("name", "changes", "overrides", "remedy"),
    [
        ("no time limit", {RETURN: [], LENGTH: []}, {}, "env.max_episode_steps=1000"),
        ("same return", {RETURN: np.zeros(ROWS)}, {}, ""),
        ("same return", IDLE | {RETURN: np.zeros(ROWS)}, {}, "action.noise_correlation=0.95"),
        ("goal never reached", IDLE, {}, "action.noise_correlation=0.95"),
        ("observation without information", {"rollout/observation_share": [0.0]}, {}, ""),
        ("rate too high", {"train/clip_fraction": [0.8] * ROWS}, {}, "ppo.learning_rate=3e-05"),
        ("rate too high", {"train/approx_kl": [1.2] * ROWS}, {}, "ppo.learning_rate=3e-05"),
        ("rate too low", FLAT | {"train/approx_kl": [1e-6] * ROWS}, {}, "ppo.learning_rate=0.003"),
        (
            "rewards too large",
            FLAT | {"train/value_gradient_ratio": [1e5] * 4},
            {},
            "critic.head=popart",
        ),
        (
            "entropy collapsed",
            FLAT | {"train/entropy_loss": [-1.4, -1.4, *[-0.01] * (ROWS - 2)]},
            {},
            "ppo.entropy_weight=0.1",
        ),
        (
            "discount too short",
            FLAT | {"rollout/large_reward_share": [0.02] * 4},
            {"discount": 0.5},
            "ppo.discount=0.98",
        ),
        ("rollout too short", FLAT, {"num_steps": 4}, "ppo.num_steps=64"),
        ("rollout too short", FLAT, {"sequence_length": 4}, "ppo.sequence_length=null"),
        (
            "critic dead",
            FLAT | {"train/explained_variance": [-0.1] * ROWS},
            {},
            "critic.head=popart",
        ),
        ("memory unused", FLAT | {"memory/beta": [0.001] * 4}, {}, "ppo.learning_rate=9e-05"),
        ("keys alike", FLAT | {"memory/key_overlap": [0.995] * 4}, {}, "ppo.learning_rate=9e-05"),
        ("no rise", FLAT, {}, "ppo.gae_lambda=0.2"),
        ("no rise", FLAT, {"gae_lambda": 0.2}, f"total_steps={4 * STEPS}"),
        (
            "no rise",
            FLAT | {"rollout/large_reward_share": [1.0] * 4},
            {},
            f"total_steps={4 * STEPS}",
        ),
        (
            "no rise",
            FLAT | {"rollout/large_reward_share": [0.02] * 4},
            {},
            f"total_steps={4 * STEPS}",
        ),
        ("skipped updates", {"health/skipped_updates": [3] * ROWS}, {}, "ppo.learning_rate=9e-05"),
        (
            "evaluation below training",
            {"eval/mean_reward": [-1, -1, -1, -0.9]},
            {},
            "evaluation.deterministic=false",
        ),
        (
            "schedule ended",
            {},
            {"learning_rate_schedule": "linear"},
            f"total_steps={2 * STEPS}",
        ),
    ],
)
def test_each_cause_is_seen_in_its_curves(name, changes, overrides, remedy, monkeypatch, tmp_path):
    run = history(changes, overrides)
    monkeypatch.setattr(diagnosis, "read_history", lambda _: run)
    (found,) = diagnosis.diagnose(tmp_path)
    assert (found.name, found.override) == (name, remedy)
    # what is said can be said, and is not said again where it has been followed
    values = run.config.model_dump(mode="json")
    apply_overrides(values, remedy.split())
    followed = run._replace(config=validate(RunConfig, values))
    monkeypatch.setattr(diagnosis, "read_history", lambda _: followed)
    assert remedy == "" or remedy not in [each.override for each in diagnosis.diagnose(tmp_path)]


def test_a_policy_that_has_not_learned_may_sample_better_than_it_chooses():
    stuck = FLAT | {SPREAD: np.full(ROWS, 0.1)}
    assert "evaluation below training" in names(history(stuck | {"eval/mean_reward": [-0.9]}))
    assert "evaluation below training" not in names(history(stuck | {"eval/mean_reward": [-0.75]}))
    for value in (-200.0, 0.0):
        alike = {RETURN: np.full(ROWS, value), SPREAD: np.zeros(ROWS), "eval/mean_reward": [value]}
        assert "evaluation below training" not in names(history(alike))


def test_what_was_learned_at_once_need_not_rise():
    solved = {RETURN: [-1, -1, *[1] * (ROWS - 2)], SPREAD: np.full(ROWS, 1.9)}
    assert not history(solved).learned
    assert "no rise" not in names(history(solved))
    assert "no rise" in names(history(solved | {SPREAD: np.full(ROWS, 2.1)}))


def test_what_flows_through_many_steps_is_long_enough():
    long = FLAT | {LENGTH: np.full(ROWS, 10_000.0)}
    assert "rollout too short" in names(history(long, {"num_steps": 512}))
    assert "rollout too short" not in names(history(long, {"num_steps": 1024}))


def test_no_remedy_is_said_that_the_run_cannot_have(monkeypatch, tmp_path):
    run = history(FLAT, {"num_steps": 4})
    monkeypatch.setattr(diagnosis, "read_history", lambda _: run)
    monkeypatch.setattr(diagnosis, "CAUSES", [lambda _: Finding("x", "y", "ppo.discount=2")])
    (found,) = diagnosis.diagnose(tmp_path)
    assert (found.name, found.override) == ("x", "")


@pytest.mark.parametrize(("rise", "learned"), [(0.2, False), (0.6, True)])
def test_a_rise_is_measured_in_errors_of_the_mean(rise, learned):
    curve = np.linspace(0, rise, ROWS)
    assert history({RETURN: curve}).learned is learned
    # runs whose spread was not logged
    assert history({RETURN: curve, SPREAD: []}).learned
    assert not history(FLAT | {SPREAD: []}).learned


@pytest.mark.parametrize(
    ("later", "returns", "told"),
    [
        (0.01, HEALTHY[RETURN], False),
        (0.01, FLAT[RETURN], True),
        (0.5, HEALTHY[RETURN], True),
    ],
)
def test_haste_in_the_beginning_is_forgiven_where_it_ends_well(later, returns, told):
    moved = [0.5, 0.3, *[0.02] * (ROWS // 2 - 2), *[later] * (ROWS // 2)]
    run = history({"train/approx_kl": moved, RETURN: returns})
    assert ("rate too high" in names(run)) is told


@pytest.mark.parametrize(
    ("head", "loss", "returns", "told"),
    [
        ("popart", 0.0003, HEALTHY[RETURN], False),
        ("popart", 0.3, HEALTHY[RETURN], True),
        ("popart", 0.0003, FLAT[RETURN], True),
        # in unknown units
        ("linear", 0.0003, HEALTHY[RETURN], True),
    ],
)
def test_where_episodes_have_become_alike_little_is_left_to_foresee(head, loss, returns, told):
    curves = {"train/explained_variance": [-4.0] * ROWS, "train/value_loss": [loss] * ROWS}
    run = history(curves | {RETURN: returns}, head=head)
    assert ("critic dead" in names(run)) is told


@pytest.mark.parametrize(("first_episodes", "told"), [(0.1, True), (0.4, False)])
def test_where_episodes_end_late_nobody_knows_whether_returns_rose(first_episodes, told):
    curves = FLAT | {"train/entropy_loss": [-1.4, -1.4, *[-0.01] * (ROWS - 2)]}
    unknown = int(first_episodes * ROWS)
    run = history(curves | {RETURN: [*[np.nan] * unknown, *FLAT[RETURN][unknown:]]})
    assert ("entropy collapsed" in names(run)) is told


def test_only_the_first_cause_is_told(monkeypatch, tmp_path):
    run = history(FLAT | {"train/approx_kl": [3.0, *[1e-6] * (ROWS - 1)]}, {"num_steps": 4})
    assert {"rate too high", "rate too low", "rollout too short"} <= set(names(run))
    monkeypatch.setattr(diagnosis, "read_history", lambda _: run)
    assert [found.name for found in diagnosis.diagnose(tmp_path)] == ["rate too high"]


@pytest.mark.parametrize(("without", "needed"), [(0.95, False), (-0.5, True)])
def test_a_control_tells_whether_memory_is_needed(without, needed, monkeypatch, tmp_path):
    runs = {
        tmp_path / "run": history({}),
        tmp_path / "control": history({RETURN: np.linspace(-1, without, ROWS)}),
    }
    monkeypatch.setattr(diagnosis, "read_history", runs.get)
    found = diagnosis.diagnose(*runs)
    assert [each.name for each in found] == ([] if needed else ["memory not needed"])


def test_runs_of_one_kind_are_counted_in_one_line(monkeypatch, tmp_path):
    high, healthy = history({"train/clip_fraction": [0.8] * ROWS}), history({})
    runs = {tmp_path / "0": high, tmp_path / "1": healthy, tmp_path / "2": high}
    monkeypatch.setattr(diagnosis, "read_history", runs.get)
    assert of_several(list(runs)) == "rate too high (2 of 3 runs)"
    assert of_several([tmp_path / "1"]) == in_one_line(tmp_path / "1") == ""
    assert in_one_line(tmp_path / "0").startswith("rate too high: ")


def test_the_command(tmp_path, capsys):
    config = tmp_path / "run.yaml"
    config.write_text(
        "env: {id: fwrl/RepeatPrevious-v0, num_envs: 4}\nstack: {width: 8}\n"
        "core: {heads: 1, update_rule: delta}\n"
        "ppo: {num_steps: 16, minibatches: 1, epochs: 1, learning_rate: 1.0e-9}\n"
        "evaluation: {every_steps: 512, episodes: 1, num_envs: 1}\ntotal_steps: 2048\n"
    )
    run = tmp_path / "run"
    assert run_command("train", config, "--run-dir", run) == 0
    assert "rate too low: the policy does not move" in capsys.readouterr().out
    assert run_command("diagnose", run) == 0
    said = capsys.readouterr().out
    assert said.startswith("rate too low: ")
    assert "try ppo.learning_rate=1e-08" in said
    assert run_command("diagnose", run, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["run"] == str(run)
    assert document["findings"][0]["override"] == "ppo.learning_rate=1e-08"
    rows = (run / "metrics.csv").read_text().splitlines()
    column = rows[0].split(",").index("rollout/large_reward_share")
    shares = [float(row.split(",")[column]) for row in rows[1:] if row.split(",")[column]]
    assert len(shares) == 4
    assert all(0 <= share <= 1 for share in shares)
    assert max(shares) > 0
    assert run_command("diagnose", tmp_path / "none") == 2
    assert "no such run directory" in capsys.readouterr().err


def test_a_short_run_says_that_it_is_short(monkeypatch, tmp_path):
    short = {name: numbers[:3] for name, numbers in (HEALTHY | FLAT).items()}
    run = history(short)
    monkeypatch.setattr(diagnosis, "read_history", lambda _: run)
    (found,) = diagnosis.diagnose(tmp_path)
    assert (found.name, found.override) == ("too short", "")
    # nobody asked at the end of a training
    assert in_one_line(tmp_path) == of_several([tmp_path]) == ""
    run = History(run.config.model_copy(update={"total_steps": 3072}), run.curves)
    (found,) = diagnosis.diagnose(tmp_path)
    assert found.override == "total_steps=8192"


NUMBERS = st.floats(-1e9, 1e9) | st.sampled_from([0.0, np.nan, np.inf, -np.inf])


@pytest.mark.parametrize("kind", ["fast_weight", "none"])
@given(st.data())
def test_no_curves_make_a_check_fail(kind, data):
    names = data.draw(st.sets(st.sampled_from(sorted(HEALTHY | IDLE))))
    curves = {name: data.draw(st.lists(NUMBERS, max_size=12)) for name in names}
    rows = data.draw(st.integers(diagnosis.FEWEST_ROWS, 12))
    run = history(curves | {"train/approx_kl": data.draw(st.lists(NUMBERS, min_size=rows))})
    run = History(run.config.model_copy(update={"core": CORES[kind]()}), run.curves)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diagnosis, "read_history", lambda _: run)
        for found in diagnosis.diagnose(Path("run"), Path("control")):
            assert found.says


def test_a_broken_table_is_one_line(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text("env: {id: CartPole-v1}\ntotal_steps: 64\n")
    (tmp_path / "metrics.csv").write_bytes(b"\xff\xfe not a table\n")
    assert run_command("diagnose", tmp_path) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "not a table of metrics" in said
