"""The log of a run: TensorBoard, its mirror, ``metrics.csv``, and the names of all metrics."""

import csv
import math
import os
import stat
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from io import BufferedWriter, TextIOWrapper
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from tensorboard.compat.proto import summary_pb2
from torch.utils.tensorboard.summary import custom_scalars, hparams, image, text

from agents.distributed import gather_bytes, gather_rows, num_processes
from agents.evaluation import Summary as EvaluationSummary
from agents.evaluation import success_rate
from agents.rollout import Episodes
from fwrl.files.plain_files import append_plain
from fwrl.run.config import MAY_CHANGE, RunConfig
from fwrl.run.event_file import NAMES, EventFile
from fwrl.run.table import STEP, TABLE, columns_of, cut_table
from fwrl.run.track import Mirror
from fwrl.run.video.video import gif
from fwrl.run.yaml_files import flat
from fwrl.state import tensors_in

# Name -> meaning. Names are Stable-Baselines3's where it has one; docs/metrics.md is made of this.
METRICS: dict[str, str] = {
    "rollout/ep_rew_mean": "mean return of the last 100 training episodes, of unclipped rewards",
    "rollout/ep_rew_std": "standard deviation of these returns",
    "rollout/ep_len_mean": "mean length of the last 100 training episodes, in steps",
    "rollout/success_rate": "share of these that succeeded, if any is reported to",
    "rollout/large_reward_share": "share of the steps whose reward is at least half the largest in "
    "size; this and the following are measured at each evaluation",
    "rollout/observation_share": "share of the numbers in an observation that ever change",
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
    "train/value_gradient_ratio": "length of the value loss's gradient where both heads read the "
    "memory, divided by the policy loss's; measured at each evaluation, unless the critic has a "
    "memory of its own or none",
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
    "health/log_errors": "times that TensorBoard's files or metrics.csv could not be written, or "
    "that a measure, picture or film failed or was undefined, since the run was started or "
    "continued",
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
# Training episodes whose mean is logged.
RECENT = 100
# made at run time
PROTOCOL: Any = summary_pb2
SUMMARIES = PROTOCOL.Summary


class RecentEpisodes:
    """The last training episodes, whose means are the training curves."""

    def __init__(self, count: int = RECENT) -> None:
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
        if self.returns:
            means["rollout/ep_rew_std"] = float(np.std(self.returns))
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
    }
    low, high = summary.return_ci95
    # a single episode has no interval
    if not math.isnan(low):
        metrics |= {"eval/ci_low": low, "eval/ci_high": high}
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
        self,
        directory: Path,
        config: RunConfig,
        continued: bool,
        track: str | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        """Open both.

        Args:
            directory: The run's directory.
            config: Written to TensorBoard when the run begins.
            continued: Whether it has begun before; ``cut_logs`` has then cut its files.
            track: Where TensorBoard is mirrored, if anywhere.
            say: Reports what becomes of the mirror.

        Raises:
            FileError: If ``metrics.csv`` or the name of the mirrored run cannot be opened.
            ConfigError: If a link stands where the mirror writes.
        """
        self.directory, self.errors = directory, 0
        self._mirror = None if track is None else Mirror(directory, config, say)
        self._events: EventFile | None = None
        path = directory / TABLE
        table = append_plain(path)
        columns = columns_of(path) or [STEP, *METRICS]
        is_new = os.fstat(table.fileno()).st_size == 0
        self.file = TextIOWrapper(BufferedWriter(table), encoding="utf-8", newline="")
        self.rows = csv.DictWriter(self.file, columns, extrasaction="ignore")
        if not continued:
            self._add_settings(config)
        if is_new:
            with self._errors_counted():
                self.rows.writeheader()

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record all metrics of one step."""
        values = [SUMMARIES.Value(tag=tag, simple_value=number) for tag, number in metrics.items()]
        self._add(SUMMARIES(value=values), step)
        with self._errors_counted():
            self.rows.writerow({STEP: step, **metrics})
            # who follows the file sees every row at once
            self.file.flush()

    def show(self, step: int, pictures: Mapping[str, NDArray[np.uint8]]) -> None:
        """Record pictures in TensorBoard, ``[H W 3]`` each."""
        for name, picture in pictures.items():
            self._add(image(name, picture, dataformats="HWC"), step)

    def show_video(self, step: int, name: str, frames: Sequence[NDArray[np.uint8]]) -> None:
        """Record a video, which TensorBoard plays among its images."""
        height, width = frames[0].shape[:2]
        data = gif(frames, VIDEO_FPS)
        film = SUMMARIES.Image(height=height, width=width, colorspace=3, encoded_image_string=data)
        self._add(SUMMARIES(value=[SUMMARIES.Value(tag=name, image=film)]), step)

    def positions(self) -> dict[str, int]:
        """The size of each file, after everything has been written to the disk."""
        with self._errors_counted():
            self._event_file().sync()
        with self._errors_counted():
            self.file.flush()
            os.fsync(self.file.fileno())
        return {path.name: path.lstat().st_size for path in _files(self.directory)}

    def table(self) -> bytes:
        """The content of ``metrics.csv``, even if it has no name any more."""
        with self._errors_counted():
            self.file.flush()
        number = self.file.fileno()
        return os.pread(number, os.fstat(number).st_size, 0)

    def close(self) -> None:
        """Flush and close both."""
        with self._errors_counted():
            if self._events is not None:
                self._events.close()
        with self._errors_counted():
            self.file.close()
        if self._mirror is not None:
            self._mirror.close()

    def _add_settings(self, config: RunConfig) -> None:
        """Fill TensorBoard's pages of texts, of custom scalars and of hyper-parameters."""
        written = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
        self._add(text("config", f"```yaml\n{written}\n```"))
        self._add(custom_scalars(LAYOUT))
        shown = config.model_dump(mode="json", exclude={*MAY_CHANGE})
        settings = {
            name: value if isinstance(value, bool | int | float | str) else str(value)
            for name, value in flat(shown, lists=True).items()
        }
        # the values of the results are among the scalars already
        for summary in hparams(settings, dict.fromkeys(RESULTS, 0.0)):
            self._add(summary)

    def _add(self, summary: Any, step: int | None = None) -> None:
        with self._errors_counted():
            self._event_file().add(summary, step)
        if self._mirror is not None and step is not None:
            self._mirror.add(summary, step)

    def _event_file(self) -> EventFile:
        if self._events is None:
            self._events = EventFile(self.directory)
        return self._events

    @contextmanager
    def _errors_counted(self) -> Generator[None]:
        try:
            yield
        # a full disk, or a value that cannot be drawn
        except Exception:
            self.errors += 1


def _files(directory: Path) -> list[Path]:
    found = [path for pattern in (NAMES, TABLE) for path in directory.glob(pattern)]
    return [path for path in found if stat.S_ISREG(path.lstat().st_mode)]


def cut_logs(directory: Path, positions: Any) -> list[str]:
    """Cut the files of a log to where they were at a checkpoint; returns what is wrong, in words.

    Later lines will be written again.

    Args:
        directory: The run's directory.
        positions: The ``positions()`` in the checkpoint from which the run continues; anything else
            says nothing.

    Raises:
        FileError: If ``metrics.csv`` is a pipe, a device or a folder.
    """
    if not isinstance(positions, dict):
        return list(filter(None, [cut_table(directory / TABLE, None)]))
    sizes = cast(dict[str, Any], positions)
    sizes = {name: size for name, size in sizes.items() if type(size) is int and size >= 0}
    wrong = [cut_table(directory / TABLE, sizes.pop(TABLE, None))]
    files = {path.name: path for path in _files(directory) if path.name != TABLE}
    for name in files.keys() - sizes.keys():
        files[name].unlink()
    for name, size in sizes.items():
        there = files[name].stat().st_size if name in files else 0
        if there > size:
            with append_plain(files[name]) as file:
                file.truncate(size)
        elif there < size:
            wrong.append(f"{name} lacks {size - there:,} bytes")
    return list(filter(None, wrong))
