"""Diagnostics never end a training, whatever has become of the policy."""

import csv
from unittest import mock

import numpy as np
import pytest
import torch
from answering_env import Answering, registered_answers
from command_line import run_command
from kill_and_resume import write_config

from agents.policy import PolicyConfig, RecurrentPolicy
from agents.ppo import PPOConfig
from agents.rollout import EpisodeCounter, collect, start
from envs import GymnasiumConfig, make_envs
from fwrl.cores import CORES
from fwrl.inspection.measures import effective_rank
from fwrl.run import diagnostics
from fwrl.run.diagnostics import measured, show_memory
from fwrl.run.log import METRICS
from fwrl.run.memory_log import state_pictures
from fwrl.run.signals import Interrupted
from fwrl.stack import StackConfig

EXTREMES = [1e10, 1e19, 1e30, 3e38, torch.inf, -torch.inf, torch.nan]


class Log:
    """Stands for a run's log."""

    def __init__(self):
        self.errors, self.shown = 0, []

    def show(self, *arguments):
        self.shown.append(arguments)


@pytest.fixture(scope="module")
def envs():
    return make_envs(GymnasiumConfig(id="fwrl/RepeatFirst-v0"), 2)


def spoilt_weights(policy, extreme):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in policy.stack.parameters():
            sign = torch.randint(0, 2, parameter.shape, generator=generator) * 2 - 1
            parameter.copy_(sign * extreme)


@pytest.mark.unchecked
@pytest.mark.parametrize("extreme", EXTREMES)
@pytest.mark.parametrize("kind", CORES)
def test_measures_and_pictures_of_a_policy_that_has_diverged(kind, extreme, envs):
    torch.manual_seed(0)
    config = PolicyConfig(core=CORES[kind](), stack=StackConfig(width=16))
    policy = RecurrentPolicy(envs.observation_space, envs.action_space, config)
    rollout, carry, _ = collect(
        envs, policy, start(envs, policy, 0), 8, 0.99, 0.95, EpisodeCounter(2)
    )
    sound = Log()
    known = measured(sound, policy, rollout, PPOConfig())
    assert sound.errors == 0
    assert all(np.isfinite(value) for value in known.values())
    log = Log()
    spoilt_weights(policy, extreme)
    found = measured(log, policy, rollout, PPOConfig())
    undefined = any(np.isnan(value) for value in found.values())
    assert log.errors == (undefined or found.keys() != known.keys())
    if known and not np.isfinite(extreme):
        assert log.errors == 1
    assert found.keys() <= METRICS.keys()
    torch.utils._pytree.tree_map_only(torch.Tensor, lambda leaf: leaf.fill_(extreme), carry.memory)
    show_memory(log, 0, carry.memory)
    ((_, pictures),) = log.shown
    assert all(picture.dtype == np.uint8 for picture in pictures.values())


def test_the_rank_of_a_matrix_beside_one_that_is_not_finite():
    torch.manual_seed(0)
    sound = torch.randn(4, 3, 5)
    expected = effective_rank(sound)
    for extreme in (torch.nan, torch.inf, -torch.inf):
        spoilt = torch.cat([sound, torch.full((1, 3, 5), extreme)])
        found = effective_rank(spoilt)
        assert torch.allclose(found[:4], expected, rtol=1e-5)
        assert found[4].isnan()
    assert effective_rank(torch.zeros(2, 3, 3)).tolist() == [0, 0]
    assert effective_rank(1e30 * torch.eye(3)) == pytest.approx(3)


def test_singular_values_that_never_converge_are_undefined():
    def fail(_):
        raise torch.linalg.LinAlgError("failed to converge")

    with mock.patch.object(torch.linalg, "svdvals", fail):
        assert effective_rank(torch.eye(3).expand(2, 3, 3)).isnan().all()


def test_pictures_of_states_that_are_not_finite():
    state = torch.ones(1, 2, 4, 4)
    state[0, 0, 0, 0], state[0, 0, 1, 1] = torch.nan, torch.inf
    (picture,) = state_pictures([(state,)]).values()
    assert picture.shape[2] == 3


@pytest.mark.unchecked
def test_a_signal_is_no_error_of_a_diagnostic(envs):
    def interrupted(*_):
        raise Interrupted("SIGTERM")

    with (
        mock.patch.object(diagnostics, "memory_metrics", interrupted),
        pytest.raises(Interrupted),
    ):
        measured(Log(), None, None, PPOConfig())


def column(run, name):
    with (run / "metrics.csv").open() as file:
        return [float(row[name]) for row in csv.DictReader(file) if row[name]]


def fail(*_):
    raise RuntimeError("it cannot be drawn")


@pytest.mark.unchecked
@pytest.mark.parametrize("name", ["memory_metrics", "state_pictures"])
def test_a_diagnostic_that_raises_is_counted(name, tmp_path):
    run = tmp_path / "run"
    words = ["train", write_config("task", tmp_path), "total_steps=512", "--run-dir", run]
    with mock.patch.object(diagnostics, name, fail):
        assert run_command(*words) == 0
    assert column(run, "health/log_errors")[-1] == 1


@pytest.mark.unchecked
@pytest.mark.parametrize("answer", ["raises", "exits", "text", "flat"])
def test_a_film_of_an_environment_that_cannot_draw(answer, tmp_path, monkeypatch):
    def render(self):
        match answer:
            case "raises":
                raise RuntimeError("no display")
            case "exits":
                raise SystemExit(1)
        return {"text": "a picture", "flat": np.zeros(3)}[answer]

    monkeypatch.setattr(Answering, "metadata", {"render_modes": ["rgb_array"]})
    monkeypatch.setattr(
        Answering, "__init__", lambda self, render_mode=None: setattr(self, "how", render_mode)
    )
    monkeypatch.setattr(Answering, "render_mode", property(lambda self: self.how), raising=False)
    monkeypatch.setattr(Answering, "part", "", raising=False)
    monkeypatch.setattr(Answering, "render", render)
    run = tmp_path / "run"
    words = ["train", write_config("cartpole", tmp_path), "env.id=Answering-v0", "env.options={}"]
    with registered_answers():
        words += ["evaluation.film_steps=10", "total_steps=512", "--run-dir", run]
        assert run_command(*words) == 0
    assert column(run, "health/log_errors")[-1] == 1


@pytest.mark.unchecked
@pytest.mark.parametrize("rate", ["1e3", "1e10", "1e30"])
@pytest.mark.parametrize("kind", ["fast_weight", "delta_rnn", "recurrent_delta"])
def test_a_training_that_diverges_ends_by_its_own_rules(kind, rate, tmp_path, capsys):
    run = tmp_path / "run"
    words = ["train", write_config("task", tmp_path), f"ppo.learning_rate={rate}"]
    words += [f"core={{kind: {kind}}}", "ppo.max_grad_norm=null", "total_steps=1024"]
    code = run_command(*words, "--run-dir", run)
    said = capsys.readouterr()
    assert "Traceback" not in said.out + said.err
    # it reaches its end, or was taken back too often
    assert code == 0 or "it does not help" in said.out
