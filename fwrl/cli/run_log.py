"""What a run reports: TensorBoard, ``metrics.csv``, and the names of all metrics."""

import csv
import math
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch.utils.tensorboard import SummaryWriter

from agents.distributed import gather_rows, num_processes
from agents.evaluation import Summary
from agents.rollout import Episodes
from fwrl.cli.run_config import RunConfig
from fwrl.state import tensors_in

# Name -> meaning. Stable-Baselines3's names wherever it has one; docs/metrics.md is made of this.
METRICS: dict[str, str] = {
    "rollout/ep_rew_mean": "mean return of the last 100 training episodes, of unclipped rewards",
    "rollout/ep_len_mean": "mean length of the last 100 training episodes, in steps",
    "rollout/success_rate": "share of them that succeeded, where the environment says so",
    "eval/mean_reward": "mean return of an evaluation, on environments and seeds of its own",
    "eval/mean_ep_length": "mean length of its episodes, in steps",
    "eval/success_rate": "share of its episodes that succeeded, where the environment says so",
    "eval/iqm": "interquartile mean of its returns",
    "eval/ci_low": "lower end of the 95 % bootstrap interval of that mean",
    "eval/ci_high": "upper end of it",
    "time/fps": "environment steps per second of wall time, since the run was started or continued",
    "time/iterations": "rollouts and updates so far",
    "time/time_elapsed": "seconds of wall time so far, over all continuations",
    "time/total_timesteps": "environment steps so far, of all processes",
    "time/rollout_s": "seconds that the last rollout took, in the mean of all processes",
    "time/update_s": "seconds that the last update took, with the wait for the slowest process",
    "train/approx_kl": "divergence of the new policy from the one that acted, estimated on samples",
    "train/clip_fraction": "share of the samples whose probability ratio left the clipping range",
    "train/clip_range": "the clipping range now",
    "train/entropy_loss": "minus the mean entropy of the policy, in nats",
    "train/explained_variance": "1 for a perfect critic, 0 for one no better than a constant",
    "train/grad_norm": "norm of the gradient before it is clipped",
    "train/learning_rate": "the learning rate now",
    "train/loss": "policy loss, value loss and entropy loss, weighted",
    "train/n_updates": "gradient steps of the last update (of all in Stable-Baselines3); "
    "fewer when target_kl stopped it",
    "train/policy_gradient_loss": "the clipped surrogate objective, negated",
    "train/value_loss": "mean squared error of the critic",
    "memory/state_norm": "root mean square of the numbers in the memory's state",
}


class RecentEpisodes:
    """The last training episodes, of which the curves are the mean."""

    def __init__(self, count: int = 100) -> None:
        self.returns: deque[float] = deque(maxlen=count)
        self.lengths: deque[int] = deque(maxlen=count)
        self.successes: deque[bool] = deque(maxlen=count)

    def add(self, episodes: Episodes) -> None:
        """Count in the episodes that ended in a rollout."""
        self.returns.extend(episodes.returns)
        self.lengths.extend(episodes.lengths)
        self.successes.extend(episodes.successes)

    def metrics(self) -> dict[str, float]:
        """Nothing before the first episode has ended."""
        columns = {
            "rollout/ep_rew_mean": self.returns,
            "rollout/ep_len_mean": self.lengths,
            "rollout/success_rate": self.successes,
        }
        return {name: float(np.mean(column)) for name, column in columns.items() if column}


def gather_episodes(episodes: Episodes) -> Episodes:
    """Those that ended in the rollouts of all processes of a training."""
    if num_processes() == 1:
        return episodes
    says = len(episodes.successes) == len(episodes.returns)
    successes = episodes.successes if says else [math.nan] * len(episodes.returns)
    columns = torch.tensor([episodes.returns, episodes.lengths, successes], dtype=torch.float64)
    returns, lengths, successes = gather_rows(columns.T).T.tolist()
    said = [bool(success) for success in successes if not math.isnan(success)]
    return Episodes(returns, [int(length) for length in lengths], said)


def evaluation_metrics(summary: Summary) -> dict[str, float]:
    """An evaluation under the names of ``METRICS``."""
    metrics = {
        "eval/mean_reward": summary.return_mean,
        "eval/mean_ep_length": summary.length_mean,
        "eval/iqm": summary.return_iqm,
        "eval/ci_low": summary.return_ci95[0],
        "eval/ci_high": summary.return_ci95[1],
    }
    if summary.success_rate is not None:
        metrics["eval/success_rate"] = summary.success_rate
    return metrics


def state_norm(memory: Any) -> float:
    """Root mean square of all numbers in a state; 0 for a memory that has none."""
    leaves = tensors_in(memory)
    count = sum(leaf.numel() for leaf in leaves)
    return float((sum(leaf.square().sum() for leaf in leaves) / count) ** 0.5) if count else 0.0


class RunLog:
    """Writes scalars to TensorBoard and ``metrics.csv``; a continued run goes on in both."""

    def __init__(self, directory: Path, config: RunConfig, step: int) -> None:
        self.writer = SummaryWriter(str(directory), purge_step=step)
        if step == 0:
            text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
            self.writer.add_text("config", f"```yaml\n{text}\n```")
        path = directory / "metrics.csv"
        rows = _rows_until(path, step)
        self.file = path.open("w", newline="")
        self.rows = csv.DictWriter(self.file, ["step", *METRICS])
        self.rows.writeheader()
        self.rows.writerows(rows)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record all metrics of one step."""
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step)
        self.rows.writerow({"step": step, **metrics})

    def flush(self) -> None:
        """Bring everything to the disk."""
        self.writer.flush()
        self.file.flush()

    def close(self) -> None:
        """Flush and let go."""
        self.writer.close()
        self.file.close()


def _rows_until(path: Path, step: int) -> list[dict[str, str]]:
    """The rows up to the checkpoint from which a run continues; what came after it is repeated."""
    if step == 0 or not path.exists():
        return []
    with path.open(newline="") as file:
        return [row for row in csv.DictReader(file) if int(row["step"]) <= step]
