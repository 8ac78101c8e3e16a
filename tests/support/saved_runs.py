"""The run of an agent that solved its task, and runs of untrained agents."""

from pathlib import Path

import torch

from agents.policy import RecurrentPolicy
from agents.saving import describe_policy
from envs import make_envs
from fwrl.config import validate
from fwrl.files.checkpoint import save_checkpoint
from fwrl.run.config import RunConfig
from fwrl.run.directory import open_run

SOLVED = Path(__file__).parents[1] / "golden/solved_repeat_previous"
# steps since the suit that must be repeated was observed: k = 4 counts the present card
LAG = 3


def saved_run(folder, **changes):
    """A run directory with the checkpoint of an untrained policy."""
    values = {"env": {"id": "fwrl/RepeatPrevious-v0"}, "stack": {"width": 16}, "total_steps": 1}
    config = validate(RunConfig, values | changes)
    envs = make_envs(config.env, 1)
    torch.manual_seed(0)
    policy = RecurrentPolicy(envs.observation_space, envs.action_space, config.policy)
    envs.close()
    folder.mkdir(parents=True, exist_ok=True)
    open_run(folder, config)
    document = {"policy": describe_policy(policy), "counters": {"steps": 7}}
    save_checkpoint(folder / "checkpoints/7", {"policy": policy.state_dict()}, document)
    return folder
