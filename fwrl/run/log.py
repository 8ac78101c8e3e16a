"""The log of a run: TensorBoard, ``metrics.csv``, and the names of all metrics."""

import csv
import math
import os
import threading
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from jaxtyping import Float
from numpy.typing import NDArray
from tensorboard.compat.proto import summary_pb2
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from agents.distributed import gather_bytes, gather_rows, num_processes
from agents.evaluation import Summary as EvaluationSummary
from agents.evaluation import success_rate
from agents.rollout import Episodes
from fwrl.files.plain_files import sync_file
from fwrl.run.config import MAY_CHANGE, RunConfig
from fwrl.run.video.video import gif
from fwrl.run.yaml_files import flat
from fwrl.state import tensors_in

TABLE, STEP = "metrics.csv", "step"

# Name -> meaning. Names are Stable-Baselines3's where it has one; docs/metrics.md is made of this.
METRICS: dict[str, str] = {
    "rollout/ep_rew_mean": "mean return of the last 100 training episodes, of unclipped rewards",
    "rollout/ep_len_mean": "mean length of the last 100 training episodes, in steps",
    "rollout/success_rate": "share of these that succeeded, if any is reported to",
    "eval/mean_reward": "mean return of an evaluation, on separate environments and seeds",
    "eval/mean_ep_length": "mean length of its episodes, in steps",
    "eval/success_rate": "share of its episodes that succeeded, if any is reported to",
    "eval/iqm": "interquartile mean of its returns",
    "eval/ci_low": "lower end of the 95 % bootstrap interval of the interquartile mean",
    "eval/ci_high": "upper end of that interval",
    "time/fps": "environment steps per second of wall time, since the run was started or continued",
    "time/iterations": "rollouts and updates so far",
    "time/time_elapsed": "seconds of wall time so far, over all continuations",
    "time/total_timesteps": "environment steps so far, of all processes",
    "time/rollout_s": "seconds that the last rollout took, averaged over processes",
    "time/update_s": "seconds that the last update took, with the wait for the slowest process",
    "train/approx_kl": "KL divergence of the new policy from the one that acted, estimated",
    "train/clip_fraction": "share of the samples whose probability ratio left the clipping range",
    "train/clip_range": "current clipping range",
    "train/entropy_loss": "negative mean entropy of the policy, in nats",
    "train/explained_variance": "1 for a perfect critic, 0 for one no better than a constant",
    "train/grad_norm": "norm of the gradient before it is clipped",
    "train/learning_rate": "current learning rate",
    "train/loss": "weighted sum of policy loss, value loss and entropy loss",
    "train/n_updates": "gradient steps of the last update (of all in Stable-Baselines3); "
    "fewer when target_kl stopped it",
    "train/policy_gradient_loss": "the negative clipped surrogate objective",
    "train/std": "mean standard deviation of the actions, where they are real numbers, in units of "
    "half their range",
    "train/value_loss": "mean squared error of the critic",
    "memory/state_norm": "root mean square of the numbers in the memory's state",
    "memory/beta": "mean write strength over steps and heads, before the update rule changes it; "
    "this and the following are measured at each evaluation, for fast-weight memories",
    "memory/decay": "mean share of the fast weights that survives a step",
    "memory/weights_norm": "mean Frobenius norm of the fast weights of a head",
    "memory/effective_rank": "mean number of directions that the fast weights of a head use",
    "memory/key_overlap": "mean, over steps, of the largest absolute cosine between a key and an "
    "earlier key of its episode; near 1, a write meets what was already written there",
    "memory/query_key_cosine": "mean cosine between the query and the key of a step",
    "health/env_faults": "environments that failed and were replaced so far",
    "health/skipped_updates": "gradient steps skipped so far because of NaN or infinity",
    "health/rollbacks": "times so far that the policy was reset to the last checkpoint because "
    "updates kept failing",
    "health/log_errors": "times that TensorBoard's files or metrics.csv could not be written, "
    "since the run was started or continued",
    "health/save_errors": "checkpoints that could not be written, since then",
    "health/save_s": "seconds taken by the last checkpoint",
}

# TensorBoard's page of custom scalars: title -> chart -> metrics in it.
LAYOUT = {
    "learning": {
        "return": ["Multiline", ["rollout/ep_rew_mean", "eval/mean_reward"]],
        "evaluation": ["Margin", ["eval/iqm", "eval/ci_low", "eval/ci_high"]],
    },
    "memory": {
        "writes": ["Multiline", ["memory/beta", "memory/decay"]],
        "where": ["Multiline", ["memory/key_overlap", "memory/query_key_cosine"]],
        "rank": ["Multiline", ["memory/effective_rank"]],
    },
    "health": {"counts": ["Multiline", ["health/.*(faults|updates|rollbacks|errors)"]]},
}
# The results on TensorBoard's page of hyper-parameters.
RESULTS = ("eval/mean_reward", "rollout/ep_rew_mean")
VIDEO_FPS = 10.0


class RecentEpisodes:
    """The last training episodes, whose means are the training curves."""

    def __init__(self, count: int = 100) -> None:
        self.returns: deque[float] = deque(maxlen=count)
        self.lengths: deque[int] = deque(maxlen=count)
        self.successes: deque[bool | None] = deque(maxlen=count)

    def add(self, episodes: Episodes) -> None:
        """Add the episodes that ended in a rollout."""
        self.returns.extend(episodes.returns)
        self.lengths.extend(episodes.lengths)
        self.successes.extend(episodes.successes)

    def metrics(self) -> dict[str, float]:
        """Means under the names of ``METRICS``; empty before the first episode has ended."""
        columns = {"rollout/ep_rew_mean": self.returns, "rollout/ep_len_mean": self.lengths}
        means = {name: float(np.mean(column)) for name, column in columns.items() if column}
        rate = success_rate(self.successes)
        return means if rate is None else {**means, "rollout/success_rate": rate}


def gather_episodes(episodes: Episodes) -> Episodes:
    """The episodes that ended in the rollouts of all processes."""
    if num_processes() == 1:
        return episodes
    texts = gather_bytes("\n".join(episodes.faults).encode())
    faults = [line for text in texts for line in text.decode().splitlines()]
    successes = [math.nan if success is None else success for success in episodes.successes]
    columns = torch.tensor([episodes.returns, episodes.lengths, successes], dtype=torch.float64)
    returns, lengths, successes = gather_rows(columns.T).T.tolist()
    known = [None if math.isnan(success) else bool(success) for success in successes]
    return Episodes(returns, [int(length) for length in lengths], known, faults)


def evaluation_metrics(summary: EvaluationSummary) -> dict[str, float]:
    """The results of an evaluation under the names of ``METRICS``."""
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
    """The root mean square of all numbers in a memory state; 0 for a memory without state."""
    leaves = tensors_in(memory)
    count = sum(leaf.numel() for leaf in leaves)
    return float((sum(leaf.square().sum() for leaf in leaves) / count) ** 0.5) if count else 0.0


class RunLog:
    """Writes scalars to TensorBoard and ``metrics.csv``; a continued run goes on in both.

    Failed writes are counted in ``errors`` and otherwise ignored: no training ends because of a
    line in a log.
    """

    def __init__(
        self, directory: Path, config: RunConfig, positions: Mapping[str, int] | None
    ) -> None:
        """Open both.

        Args:
            directory: The run's directory.
            config: Written to TensorBoard when the run begins.
            positions: The ``positions()`` in the checkpoint from which the run continues: later
                lines will be written again, and are cut off. None for a new run.
        """
        self.directory, self.errors = directory, 0
        threading.excepthook = _ignore_full_disks
        if positions is not None:
            _cut(directory, positions)
        self.writer: SummaryWriter | None = None
        path = directory / TABLE
        columns = _columns(path) or [STEP, *METRICS]
        self.file = path.open("a", newline="")
        self.rows = csv.DictWriter(self.file, columns, extrasaction="ignore")
        text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
        if positions is None:
            with self._errors_counted():
                self._tensorboard().add_text("config", f"```yaml\n{text}\n```")
                self._tensorboard().add_custom_scalars(LAYOUT)
                self._add_settings(config)
        if path.stat().st_size == 0:
            with self._errors_counted():
                self.rows.writeheader()

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record all metrics of one step."""
        with self._errors_counted():
            writer = self._tensorboard()
            for name, value in metrics.items():
                writer.add_scalar(name, value, step)
        with self._errors_counted():
            self.rows.writerow({STEP: step, **metrics})

    def show(self, step: int, pictures: Mapping[str, NDArray[np.uint8]]) -> None:
        """Record pictures in TensorBoard, ``[H W 3]`` each."""
        with self._errors_counted():
            for name, picture in pictures.items():
                self._tensorboard().add_image(name, picture, step, dataformats="HWC")

    def show_video(self, step: int, name: str, frames: Sequence[NDArray[np.uint8]]) -> None:
        """Record a video, which TensorBoard plays among its images."""
        height, width = frames[0].shape[:2]
        kinds: Any = summary_pb2
        with self._errors_counted():
            data = gif(frames, VIDEO_FPS)
            image = kinds.Summary.Image(
                height=height, width=width, colorspace=3, encoded_image_string=data
            )
            value = kinds.Summary.Value(tag=name, image=image)
            self._add_summary(kinds.Summary(value=[value]), step)

    def positions(self) -> dict[str, int]:
        """The size of each file, after everything has been written to the disk."""
        with self._errors_counted():
            self._tensorboard().flush()
        with self._errors_counted():
            self.file.flush()
        files = _files(self.directory)
        for path in files:
            with self._errors_counted():
                sync_file(path)
        return {path.name: path.stat().st_size for path in files}

    def close(self) -> None:
        """Flush and close both."""
        with self._errors_counted():
            if self.writer is not None:
                self.writer.close()
        with self._errors_counted():
            self.file.close()

    def _add_settings(self, config: RunConfig) -> None:
        """Fill TensorBoard's page of hyper-parameters."""
        settings = {
            name: value if isinstance(value, bool | int | float | str) else str(value)
            for name, value in flat(config.model_dump(mode="json", exclude={*MAY_CHANGE})).items()
        }
        # the values of the results are among the scalars already
        for summary in hparams(settings, dict.fromkeys(RESULTS, 0.0)):
            self._add_summary(summary)

    def _add_summary(self, summary: Any, step: int | None = None) -> None:
        writer = self._tensorboard().file_writer
        assert writer is not None, "it is open until it is closed"
        writer.add_summary(summary, step)

    def _tensorboard(self) -> SummaryWriter:
        if self.writer is None:
            self.writer = SummaryWriter(str(self.directory))
        return self.writer

    @contextmanager
    def _errors_counted(self) -> Generator[None]:
        try:
            yield
        except (OSError, ValueError):
            # a writer that has failed once always fails: the next line opens another one
            self.errors += 1
            self.writer = None


def _ignore_full_disks(failure: threading.ExceptHookArgs) -> None:
    """Print no traceback of TensorBoard's writing thread: the next line raises its error."""
    if not isinstance(failure.exc_value, OSError):
        threading.__excepthook__(failure)


def _files(directory: Path) -> list[Path]:
    return [
        path for pattern in ("events.out.tfevents.*", TABLE) for path in directory.glob(pattern)
    ]


def _cut(directory: Path, positions: Mapping[str, int]) -> None:
    for path in _files(directory):
        size = positions.get(path.name)
        if size is None:
            path.unlink()
        elif path.stat().st_size > size:
            os.truncate(path, size)


def _columns(path: Path) -> list[str]:
    """The columns of an existing table, perhaps of a version with other metrics."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return next(csv.reader(file), [])


def read_metrics(run: Path, names: Sequence[str]) -> Float[np.ndarray, "rows columns"]:
    """Steps and metrics, one row for each step at which all of these metrics were recorded."""
    path = run / TABLE
    text = path.read_text() if path.is_file() else ""
    # the last line may not be written to its end
    lines = text[: text.rfind("\n") + 1].splitlines()
    rows = [
        [float(row[name]) for name in (STEP, *names)]
        for row in csv.DictReader(lines)
        if all(row.get(name) for name in (STEP, *names))
    ]
    return np.array(rows, float).reshape(len(rows), 1 + len(names))


def steps_so_far(run: Path) -> int:
    """The step of the last row on the disk; 0 if there is none."""
    steps = read_metrics(run, [])
    return int(steps[-1, 0]) if len(steps) else 0
