"""All agents that are trained side by side: ours, and its peers in the same task."""

import math
import sys
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.torch_layers import FlattenExtractor

from agents.evaluation import evaluate, summarise
from agents.policy import PolicyConfig, RecurrentPolicy
from agents.ppo import PPOConfig, make_optimizer, ppo_update, schedule
from agents.rollout import EpisodeCounter, Rollout, collect, start
from envs import EnvConfig, make_envs
from fwrl.bench.speed.child import Child
from fwrl.bench.speed.job import EVALUATION_SEED, Learner, TrainingConfig, evaluation_env, vec_env
from fwrl.bench.speed.lstm_ppo import LSTMPPO
from fwrl.bench.speed.settings import DELTA_NET
from fwrl.cores import CoreConfig
from fwrl.cores.gru import GRUConfig
from fwrl.run.precision import Precision
from fwrl.stack import StackConfig

OURS, OUR_GRU, OURS_IN_BFLOAT16 = "fwrl, fast_weight", "fwrl, gru", "fwrl, bfloat16"
JAX, PUFFER = "JAX, GRU", "PufferLib, LSTM"
ONE_FILE, FEED_FORWARD = "LSTM PPO in one file", "SB3 PPO, feed-forward"
SHARED = {"enable_critic_lstm": False, "shared_lstm": True}
# The driver of PufferLib, and the Python of the environment that its script makes.
ROOT = Path(__file__).parents[3]
PUFFER_DRIVER = ROOT / "benchmarks/pufferlib_lstm.py"
PUFFER_PYTHON = ROOT / ".venv-pufferlib/bin/python"


class Variant(NamedTuple):
    """A variant of RecurrentPPO."""

    # options of the policy, beside the size of its LSTMs
    options: dict[str, Any]
    # steps of a minibatch; None: as many minibatches as ours
    batch_size: int | None


# RecurrentPPO's default minibatches of 128 steps, whatever the rollout, are called "of 128".
RECURRENT = {
    "RecurrentPPO": Variant({}, None),
    "RecurrentPPO, one LSTM": Variant(SHARED, None),
    "RecurrentPPO of 128": Variant({}, 128),
    "RecurrentPPO of 128, one LSTM": Variant(SHARED, 128),
}


def missing() -> dict[str, str]:
    """The peers that are not installed, by the beginning of their names: a line on each."""
    found = {
        "RecurrentPPO": (
            find_spec("sb3_contrib") is not None,
            "sb3-contrib is not installed: the rows of RecurrentPPO are left out",
        ),
        JAX: (
            find_spec("jax") is not None and find_spec("optax") is not None,
            "jax and optax (the extra bench) are not installed: the rows of JAX are left out",
        ),
        PUFFER: (
            PUFFER_PYTHON.exists(),
            "benchmarks/pufferlib.sh has not been run: the rows of PufferLib are left out",
        ),
    }
    return {name: line for name, (there, line) in found.items() if not there}


class Agent:
    """A policy of ours in its environments, and its last rollout."""

    def __init__(
        self,
        env: EnvConfig,
        policy: PolicyConfig,
        config: PPOConfig,
        device: torch.device,
        seed: int,
        total_steps: int | None = None,
    ) -> None:
        torch.manual_seed(seed)
        self.env, self.config, self.seed, self.total_steps = env, config, seed, total_steps
        self.envs = make_envs(env)
        built = RecurrentPolicy(self.envs.observation_space, self.envs.action_space, policy)
        self.policy = built.to(device)
        self.optimizer = make_optimizer(self.policy, config)
        self.carry = start(self.envs, self.policy, seed)
        self.counter = EpisodeCounter(self.envs.num_envs)
        self.rollout: Rollout | None = None
        self.steps = 0

    def collect(self, num_steps: int) -> Rollout:
        """The next rollout of this many steps."""
        discount, gae_lambda = self.config.discount, self.config.gae_lambda
        # weights are converted once for the whole rollout
        with torch.no_grad(), self.policy.autocast():
            self.rollout, self.carry, _ = collect(
                self.envs, self.policy, self.carry, num_steps, discount, gae_lambda, self.counter
            )
        return self.rollout

    def update(self, rollout: Rollout) -> None:
        """Learn from a rollout."""
        remaining = 1.0 if self.total_steps is None else 1 - self.steps / self.total_steps
        ppo_update(self.policy, self.optimizer, rollout, self.config, remaining)
        self.steps += rollout.value.numel()

    def iterate(self) -> None:
        """Act, then learn."""
        self.update(self.collect(self.config.num_steps))

    def evaluate(self, episodes: int) -> float:
        """The mean return of the most probable actions in other episodes."""
        envs = make_envs(self.env, episodes, evaluation=True)
        seed = self.seed + EVALUATION_SEED
        return summarise(evaluate(self.policy, envs, episodes, seed)).return_mean


class _Flat(FlattenExtractor):
    """Its own features; an LSTM refuses the number that NumPy counts of several columns."""

    def __init__(self, observation_space: spaces.Space[Any]) -> None:
        super().__init__(observation_space)
        self._features_dim = int(self._features_dim)


class SB3Agent:
    """An algorithm of Stable-Baselines3: a variant of RecurrentPPO, or PPO without memory."""

    def __init__(
        self, job: TrainingConfig, device: torch.device, recurrent: Variant | None
    ) -> None:
        ppo, width = job.ppo, job.width
        self.job = job
        self.steps = job.num_envs * ppo.num_steps
        batch_size, make, policy = self.steps // ppo.minibatches, PPO, "MlpPolicy"
        options: dict[str, Any] = {"net_arch": [width, width]}
        if recurrent is not None:
            batch_size = recurrent.batch_size or batch_size
            make, policy = import_module("sb3_contrib").RecurrentPPO, "MlpLstmPolicy"
            options = {"lstm_hidden_size": width, **recurrent.options}
            options["features_extractor_class"] = _Flat
        self.model: BaseAlgorithm = make(
            policy,
            vec_env(job),
            learning_rate=self._learning_rate,
            n_steps=ppo.num_steps,
            batch_size=batch_size,
            n_epochs=ppo.epochs,
            gamma=ppo.discount,
            gae_lambda=ppo.gae_lambda,
            clip_range=ppo.clip,
            ent_coef=ppo.entropy_weight,
            vf_coef=ppo.value_weight,
            max_grad_norm=ppo.max_grad_norm or math.inf,
            seed=job.seed,
            device=device,
            policy_kwargs=options,
        )
        self.opened = False

    def _learning_rate(self, _remaining: object) -> float:
        # what it is given counts one call of learn
        taken = self.model.num_timesteps if hasattr(self, "model") else 0
        return schedule(self.job.ppo, self.job.remaining(taken)).learning_rate

    def iterate(self) -> None:
        """Act, then learn."""
        self.model.learn(self.steps, log_interval=None, reset_num_timesteps=not self.opened)  # pyright: ignore[reportArgumentType]
        self.opened = True

    def evaluate(self, episodes: int) -> float:
        """The mean return of the most probable actions in other episodes."""
        envs = evaluation_env(self.job, episodes)
        found, _ = evaluate_policy(self.model, envs, episodes, warn=False)
        return float(np.mean(found))


def our_policy(
    job: TrainingConfig, core: CoreConfig, precision: Precision = "float32"
) -> PolicyConfig:
    """A policy of one layer of the job's width."""
    return PolicyConfig(stack=StackConfig(width=job.width), core=core, precision=precision)


def _ours(
    job: TrainingConfig, device: torch.device, core: CoreConfig, precision: Precision = "float32"
) -> Agent:
    policy = our_policy(job, core, precision)
    return Agent(job.env, policy, job.ppo, device, job.seed, job.total_steps)


def _jax(job: TrainingConfig, _device: torch.device) -> Child:
    return Child([sys.executable, "-m", "fwrl.bench.speed.jax_gru"], job)


def _puffer(job: TrainingConfig, _device: torch.device) -> Child:
    return Child([str(PUFFER_PYTHON), str(PUFFER_DRIVER)], job)


# By name: what builds an agent for a job.
TRAINERS: Mapping[str, Callable[[TrainingConfig, torch.device], Learner]] = {
    OURS: partial(_ours, core=DELTA_NET),
    OURS_IN_BFLOAT16: partial(_ours, core=DELTA_NET, precision="bfloat16"),
    OUR_GRU: partial(_ours, core=GRUConfig()),
    JAX: _jax,
    PUFFER: _puffer,
    **{name: partial(SB3Agent, recurrent=variant) for name, variant in RECURRENT.items()},
    ONE_FILE: LSTMPPO,
    FEED_FORWARD: partial(SB3Agent, recurrent=None),
}


def present(names: Iterable[str]) -> list[str]:
    """Those of these trainers that are installed."""
    absent = tuple(missing())
    return [name for name in names if not name.startswith(absent)]


@contextmanager
def built(
    names: Iterable[str], job: TrainingConfig, device: torch.device
) -> Generator[dict[str, Learner]]:
    """These trainers, each with its own environments; processes of their own end at the end."""
    with ExitStack() as stack:
        learners: dict[str, Learner] = {}
        for name in names:
            learners[name] = TRAINERS[name](job, device)
            if isinstance(learner := learners[name], Child):
                stack.callback(learner.close)
        yield learners
