"""The parts of a training run, made before its first step."""

from typing import NamedTuple

from agents import distributed
from agents.ppo import make_optimizer
from agents.saving import new_policy
from envs import EnvConfigError, VectorEnv, make_envs
from fwrl.config import ConfigError
from fwrl.run.config import RunConfig
from fwrl.run.directory import package_versions
from fwrl.run.process import choose_device, compute_with, derived_seed, seed_generators
from fwrl.run.state import Learner


class Setup(NamedTuple):
    """Environments and a learner; making them finds mistakes before anything is written."""

    envs: VectorEnv
    evaluation_envs: VectorEnv | None
    """None in all processes but the first."""
    learner: Learner

    def close(self) -> None:
        """Close the environments."""
        self.envs.close()
        if self.evaluation_envs is not None:
            self.evaluation_envs.close()


def join(config: RunConfig) -> None:
    """Meet the other processes of this run, if a launcher has started several.

    Raises:
        ConfigError: If that is impossible, or if they were started differently.
    """
    device = choose_device(config.device)
    distributed.join(distributed.own_device(device))
    if not distributed.alike(f"{package_versions()} {device.type} {config.model_dump_json()}"):
        raise ConfigError(
            "the processes of this run differ in configuration, device or version; "
            "start them all by the same command on machines that are set up alike"
        )


def prepare(config: RunConfig) -> Setup:
    """The environments, policy and optimiser of a configuration.

    Raises:
        ConfigError: If they cannot be made.
    """
    compute_with(config.num_threads)
    seed_generators(config.seed)
    device = distributed.own_device(choose_device(config.device))
    evaluation_count = min(config.evaluation.num_envs, config.evaluation.episodes)
    evaluation_envs = None
    try:
        envs = make_envs(config.env)
        if distributed.is_first():
            evaluation_envs = make_envs(config.env, evaluation_count, evaluation=True)
    except EnvConfigError as error:
        raise ConfigError(str(error)) from None
    policy = new_policy(envs.observation_space, envs.action_space, config.policy).to(device)
    distributed.copy_from_first(policy)
    if not distributed.is_first():
        # the same policy everywhere, but not the same actions
        seed_generators(derived_seed(config.seed, 0, distributed.rank()))
    return Setup(envs, evaluation_envs, Learner(policy, make_optimizer(policy, config.ppo)))
