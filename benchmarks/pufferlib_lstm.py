"""PufferLib's published core, its LSTM, on a task of ours: a peer of ``fwrl bench speed``.

Runs in the virtual environment that ``benchmarks/pufferlib.sh`` makes. Trainer and policy are
theirs; the settings are those of the job as far as they have them. Theirs and not ours: the state
is zero where a rollout starts, in acting and in training, and is never reset where an episode
starts inside one; minibatches are drawn with replacement between each other; the last step of a
rollout has no advantage.
"""

import sys
import warnings
from typing import Any

import numpy as np
import pufferlib.models
import pufferlib.pufferl
import torch
from gymnasium import spaces

from agents.ppo import schedule
from envs.tasks import make_vector_env
from fwrl.bench.speed.child import serve
from fwrl.bench.speed.job import TrainingConfig, columns_of, evaluation_env, mean_return


class Task(pufferlib.PufferEnv):
    """All environments of a task of ours, in NumPy, as one native environment of theirs."""

    def __init__(self, job: TrainingConfig) -> None:
        self.envs = make_vector_env(job.task, job.num_envs, **job.options)
        self.scale = job.reward_scale
        columns = columns_of(self.envs.single_observation_space)
        # a row for each symbol of each column
        self.one_hot = [np.eye(each, dtype=np.float32) for each in columns]
        size = int(sum(columns))
        self.single_observation_space = spaces.Box(0.0, 1.0, (size,), np.float32)
        self.single_action_space = self.envs.single_action_space
        self.num_agents = job.num_envs
        super().__init__()
        # they count it for environments of several processes alone
        self.agents_per_batch = job.num_envs

    def reset(self, seed: int | None = None) -> tuple[Any, list[Any]]:
        """New episodes everywhere."""
        self.observations[:] = self.encode(self.envs.reset(seed=seed)[0])
        return self.observations, []

    def step(self, actions: Any) -> tuple[Any, ...]:
        """Step all environments; their buffers are written to."""
        seen, reward, self.terminals[:], self.truncations[:], _ = self.envs.step(actions)
        self.rewards[:] = self.scale * reward
        self.observations[:] = self.encode(seen)
        return self.observations, self.rewards, self.terminals, self.truncations, []

    def close(self) -> None:
        """Nothing is open."""

    def encode(self, seen: Any) -> Any:
        """A column for each symbol."""
        columns = seen.reshape(len(seen), -1).T
        pairs = zip(self.one_hot, columns, strict=True)
        return np.concatenate([table[column] for table, column in pairs], axis=1)


class Trainer(pufferlib.pufferl.PuffeRL):
    """Their trainer without its dashboard, which would cost time."""

    def print_dashboard(self, *_: Any, **__: Any) -> None:
        """Nothing."""


class Agent:
    """Their agent in its task."""

    def __init__(self, job: TrainingConfig) -> None:
        torch.set_num_threads(job.threads)
        torch.manual_seed(job.seed)
        self.job = job
        self.task = Task(job)
        policy = pufferlib.models.Default(self.task, job.width)
        self.policy = pufferlib.models.LSTMWrapper(self.task, policy, job.width, job.width)
        self.trainer = Trainer(settings(job), self.task, self.policy)
        self.trainer.utilization.stop()

    def iterate(self) -> None:
        """Act, then learn."""
        job, trainer = self.job, self.trainer
        now = schedule(job.ppo, job.remaining(trainer.global_step))
        for group in trainer.optimizer.param_groups:
            group["lr"] = now.learning_rate
        trainer.evaluate()
        trainer.train()

    @torch.no_grad()
    def evaluate(self, episodes: int) -> float:
        """The mean return of the most probable actions in other episodes."""
        state: dict[str, Any] = {"lstm_h": torch.zeros(episodes, self.job.width)}
        state["lstm_c"] = state["lstm_h"]

        def act(seen: Any) -> Any:
            features = torch.as_tensor(self.task.encode(seen))
            return self.policy.forward_eval(features, state)[0].argmax(-1).numpy()

        return mean_return(evaluation_env(self.job, episodes), act)


def settings(job: TrainingConfig) -> dict[str, Any]:
    """Their names for the job's settings."""
    ppo = job.ppo
    steps = ppo.num_steps * job.num_envs
    return {
        "batch_size": steps,
        "bptt_horizon": ppo.num_steps,
        "minibatch_size": steps // ppo.minibatches,
        "max_minibatch_size": steps,
        "update_epochs": ppo.epochs,
        "optimizer": "adam",
        "learning_rate": ppo.learning_rate,
        "anneal_lr": False,
        "adam_beta1": 0.9,
        "adam_beta2": 0.999,
        "adam_eps": ppo.adam_epsilon,
        "gamma": ppo.discount,
        "gae_lambda": ppo.gae_lambda,
        "clip_coef": ppo.clip,
        # half the squared error is theirs, and its limit is always on
        "vf_coef": 2 * ppo.value_weight,
        "vf_clip_coef": np.inf,
        "ent_coef": ppo.entropy_weight,
        "max_grad_norm": ppo.max_grad_norm or np.inf,
        # all segments alike, and no correction of what is off the policy
        "prio_alpha": 0.0,
        "prio_beta0": 1.0,
        "vtrace_rho_clip": 1.0,
        "vtrace_c_clip": 1.0,
        # never: the job says when it ends, and nothing is saved
        "total_timesteps": 2**40,
        "checkpoint_interval": 2**40,
        "seed": job.seed,
        "device": "cpu",
        "precision": "float32",
        "use_rnn": True,
        "compile": False,
        "cpu_offload": False,
        "torch_deterministic": False,
    }


def check() -> None:
    """Train for a moment."""
    agent = Agent(TrainingConfig(task="RepeatPrevious", num_envs=4, width=16))
    agent.iterate()
    assert agent.trainer.global_step == 4 * agent.job.ppo.num_steps


if __name__ == "__main__":
    # their autocast, which float32 has no use for
    warnings.filterwarnings("ignore", message="In CPU autocast")
    check() if sys.argv[1:] == ["--check"] else serve(Agent)
