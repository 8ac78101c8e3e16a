"""Frames of an episode: its pictures, each with or without the recall strip."""

from collections.abc import Iterator
from itertools import chain, islice
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Shaped
from numpy.typing import NDArray
from torch import Tensor

from agents.evaluation import Acted, act
from agents.inspection import Followed, Rows, follow, mapped, recall_rows
from agents.policy import RecurrentPolicy
from envs import VectorEnv
from fwrl.run.video.recall_strip import Band, Shown, with_strip
from fwrl.run.video.video import enlarged
from fwrl.state import map_tensors

# Steps of a strip, up to the present one; older steps are one number.
WINDOW = 200
# The first so many memories are drawn.
MOST_BANDS = 4
# The first so many numbers of an action are written.
MOST_NUMBERS = 3


class Moment(NamedTuple):
    """One time step of an episode."""

    acted: Acted
    # the picture before the action; None at the first step, and where the environment draws none
    frame: NDArray[np.uint8] | None
    # the sum of the rewards before the action
    earned: float


def moments(
    envs: VectorEnv, policy: RecurrentPolicy, seed: int, longest: int, deterministic: bool
) -> Iterator[Moment]:
    """An episode of slot 0, step by step; at most ``longest`` steps have a picture.

    It ends early where the environment draws no picture.
    """
    earned, frame = 0.0, None
    for acted in islice(act(policy, envs, seed, deterministic), longest + 1):
        yield Moment(acted, frame, earned)
        step = acted.step
        earned += float(step.reward[0])
        # at the end of an episode the picture is that of the next one
        if step.terminated[0] or step.truncated[0] or (frame := envs.render()) is None:
            break


def pictures_of(episode: Iterator[Moment]) -> Iterator[NDArray[np.uint8]]:
    """The pictures of an episode, without the one before its first step."""
    return (moment.frame for moment in episode if moment.frame is not None)


def with_recall(
    policy: RecurrentPolicy, episode: Iterator[Moment]
) -> tuple[Iterator[NDArray[np.uint8]], str]:
    """The pictures with the recall strip and a remark on it; or without, and the reason why."""
    block = list(islice(episode, WINDOW))
    now = _follow(policy, block, None)
    if not now.exact:
        return pictures_of(chain(block, episode)), f"none: {now.remark}"
    memories = len(mapped(now.layers))
    cut = f"; the first {MOST_BANDS} of {memories} memories" if memories > MOST_BANDS else ""
    return _strips(policy, block, now, episode), now.remark + cut


def _strips(
    policy: RecurrentPolicy, block: list[Moment], now: Followed, episode: Iterator[Moment]
) -> Iterator[NDArray[np.uint8]]:
    """Draw block after block; no more than two are kept, however long the episode is."""
    before, first = None, 0
    # in an episode shorter than a strip every step has its place from the start
    steps = len(block)
    while block:
        rows = recall_rows(now, before, WINDOW)[:MOST_BANDS]
        for index, moment in enumerate(block):
            if moment.frame is None:
                continue
            time = first + index
            start = max(0, time - steps + 1)
            bands = [_band(row, index) for row in rows]
            shown = Shown(time, start, start + steps - 1, _facts(time, moment), bands)
            yield with_strip(enlarged(moment.frame), shown)
        first, block = first + len(block), list(islice(episode, WINDOW))
        if block:
            before, now = now, _follow(policy, block, now)


def _follow(policy: RecurrentPolicy, block: list[Moment], before: Followed | None) -> Followed:
    inputs = map_tensors(
        lambda *times: torch.stack(times, dim=1), *(moment.acted.inputs for moment in block)
    )
    return follow(policy, inputs, before)


def _band(rows: Rows, index: int) -> Band:
    return Band(rows.name, rows.share[index].numpy(), float(rows.older[index]))


def _facts(time: int, moment: Moment) -> list[str]:
    """Step, action, value and return as short texts."""
    acted = moment.acted
    value = float(acted.output.value[0])
    return [
        f"step {time}",
        f"action {_action(acted.action[0])}",
        f"value {_short(value)}",
        f"return {_short(moment.earned)}",
    ]


def _action(action: Shaped[Tensor, " A"]) -> str:
    numbers: list[float] = action.tolist()
    few = [str(n) if isinstance(n, int) else _short(n) for n in numbers[:MOST_NUMBERS]]
    return " ".join([*few, "…"] if len(numbers) > MOST_NUMBERS else few)


def _short(number: float) -> str:
    return f"{number:.2f}" if abs(number) < 100 else f"{number:.0f}"
