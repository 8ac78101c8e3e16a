"""Why a run does not learn, by what it has logged: causes, their numbers, and what to try.

Each check reads curves of ``metrics.csv`` and answers with a finding or None.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fwrl.config import ConfigError, OneLineError, validate
from fwrl.cores import kinds_of
from fwrl.run.config import RunConfig
from fwrl.run.history import RETURN, SPREAD, History, read_history
from fwrl.run.yaml_files import apply_overrides

LENGTH = "rollout/ep_len_mean"
# Iterations from which a run says something, and the finding on one of fewer.
FEWEST_ROWS, TOO_SHORT = 8, "too short"
# Shares of an iteration's samples that are clipped, and divergences of its policies.
CLIPPED, MUCH_KL, NO_KL = 0.45, 0.2, 1e-4
# The value loss's gradient over the policy loss's; explained variance; share of the first entropy.
RULED, UNFORESEEN, COLLAPSED = 1e3, 0.05, 0.1
# Share of the first return that is left of one that does nothing, and its explained variance.
IDLE, UNFORESEEN_NOISE = 0.05, 0.1
# Explained variance of a critic that misleads, and a loss that is too small for that.
MISLEADING, SMALL_LOSS = -1.0, 0.01
# The least weight of a value loss that teaches a critic.
LEAST_WEIGHT = 0.01
# Steps of each environment without the end of an episode, in rollouts.
ENDLESS_ROLLOUTS = 8
# Episodes in the horizon of the discount, and in what gradients flow through.
FAR, LONG = 3.0, 2.0
# Rewards of an episode that are few; steps through which gradients flow that are few, and many.
FEW_REWARDS, FEW_STEPS, MANY_STEPS = 2.0, 16, 1024
# Mean write strengths, and overlap of keys, at which a memory keeps nothing apart.
LEAST_BETA, MOST_BETA, OVERLAP = 0.02, 0.995, 0.985
# Share of a run's rise by which evaluations are below training, or the rise of its last quarter.
APART, STILL_RISING = 0.3, 0.15
# Deviations of an episode's return by which evaluations are below training where nothing rises.
FAR_APART = 3.0
# From this lambda on an advantage sums many rewards; one that leaves most of them to the critic.
LONG_LAMBDA, SHORT_LAMBDA = 0.5, 0.2
# From this share of the steps on a large reward is no answer to one of them: a pole still stands.
EVERY_STEP = 0.9
# Trainings that are so many times as long may yet learn.
LONGER = 4


class Finding(NamedTuple):
    """A cause, in words, with its numbers and what to try."""

    name: str
    says: str
    override: str
    """The remedy as ``KEY=VALUE``, or two of them; empty where none can be said."""


# Noise that leads farther where independent noise averages out.
CORRELATED_NOISE = "action.noise_correlation=0.95"

# Parts of a run.
LATE, EARLY, MOST = slice(0.5, 1.0), slice(0.0, 0.25), slice(0.0, 0.75)


def _skipped(run: History) -> Finding | None:
    skipped = run.values("health/skipped_updates")
    if not len(skipped) or skipped[-1] == 0:
        return None
    says = f"{skipped[-1]:.0f} gradient steps were skipped because of NaN or infinity"
    return Finding("skipped updates", says, _rate(run, 0.3))


def _endless(run: History) -> Finding | None:
    each = run.steps // run.config.env.num_envs
    if len(run.curves[RETURN]) or each < ENDLESS_ROLLOUTS * run.config.ppo.num_steps:
        return None
    says = f"no episode has ended in {each:,} steps of each environment"
    return Finding("no time limit", says, "env.max_episode_steps=1000")


def _same_return(run: History) -> Finding | None:
    returns = run.values(RETURN)
    if len(returns) < FEWEST_ROWS or np.ptp(returns) > 1e-9 * max(abs(returns[0]), 1e-9):
        return None
    says = f"every episode returns {returns[0]:.4g}: nothing tells a good action from a bad one"
    # only actions in a Box have a deviation
    return Finding("same return", says, CORRELATED_NOISE if len(run.values("train/std")) else "")


def _goal_never_reached(run: History) -> Finding | None:
    lengths, returns = run.values(LENGTH), run.values(RETURN)
    evaluated, explained = run.values("eval/mean_reward"), run.middle("train/explained_variance")
    if not len(run.values("train/std")) or not all(map(len, (lengths, returns, evaluated))):
        return None
    # the return is only the price of the noise, which nobody can foresee and idleness saves
    idle = returns.max() < 0 and abs(evaluated[-1]) < IDLE * abs(returns[0])
    if np.ptp(lengths) > 0 or not idle or explained > UNFORESEEN_NOISE:
        return None
    says = (
        f"no episode ends before {lengths[-1]:.0f} steps, and the policy learns to do nothing, "
        f"which returns {evaluated[-1]:.3g}: random actions may never have met a reward"
    )
    return Finding("goal never reached", says, CORRELATED_NOISE)


def _blind(run: History) -> Finding | None:
    changing = run.values("rollout/observation_share")
    if not len(changing) or changing.max() > 0:
        return None
    return Finding("observation without information", "no number in the observation changes", "")


def _rate_too_high(run: History) -> Finding | None:
    divergence = run.values("train/approx_kl", EARLY).max(initial=0.0)
    clipped = run.middle("train/clip_fraction", EARLY)
    hasty = clipped >= CLIPPED or divergence >= MUCH_KL
    # a run that has learned may have begun in haste
    if not hasty or (run.learned and not _still_hasty(run)):
        return None
    says = (
        f"updates move the policy too far: KL up to {divergence:.2g}, {clipped:.0%} of "
        "the samples clipped in the first quarter"
    )
    return Finding("rate too high", says, _rate(run, 0.1))


def _still_hasty(run: History) -> bool:
    clipped = run.middle("train/clip_fraction", LATE)
    return clipped >= CLIPPED or run.middle("train/approx_kl", LATE) >= MUCH_KL


def _rate_too_low(run: History) -> Finding | None:
    moved = run.middle("train/approx_kl", MOST)
    if run.learned or not moved < NO_KL:
        return None
    says = f"the policy does not move: KL {moved:.1g} in an update, healthy is .003 to .03"
    return Finding("rate too low", says, _rate(run, 10.0))


def _ruled_by_value(run: History) -> Finding | None:
    ratio = run.middle("train/value_gradient_ratio")
    if not ratio > RULED or run.learned:
        return None
    says = f"the value loss rules what both heads share: its gradient is {ratio:.3g} x the policy's"
    weight = run.config.ppo.value_weight / ratio
    return Finding("rewards too large", says, _scale(run, f"ppo.value_weight={weight:.1g}"))


def _scale(run: History, otherwise: str) -> str:
    """The override that lets the critic not care about scale; another one if it does not."""
    config = run.config
    cares = config.critic.head == "linear" and not config.reward.normalise
    return "critic.head=popart" if cares else otherwise


def _critic_dead(run: History) -> Finding | None:
    explained = run.middle("train/explained_variance", LATE)
    taught = run.config.ppo.value_weight >= LEAST_WEIGHT
    # a policy may learn in spite of a critic that is worse than none
    least = MISLEADING if run.learned and taught else UNFORESEEN
    # where all episodes have become alike, little is left to explain
    alike = run.config.critic.head == "popart" and run.middle("train/value_loss", LATE) < SMALL_LOSS
    if not explained < least or (run.learned and alike):
        return None
    says = f"the critic foresees nothing: explained variance {explained:.2g} in the second half"
    remedy = _scale(run, _rate(run, 3.0)) if taught else "ppo.value_weight=0.5"
    return Finding("critic dead", says, remedy)


def _entropy_collapsed(run: History) -> Finding | None:
    entropy = -run.values("train/entropy_loss")
    # where no episode has ended early on, nobody knows whether returns have risen
    known = len(run.values(RETURN, EARLY)) > 0
    if len(entropy) < FEWEST_ROWS or entropy[:2].mean() <= 0 or run.learned or not known:
        return None
    left = float(np.median(entropy[len(entropy) // 2 :]) / entropy[:2].mean())
    if left > COLLAPSED:
        return None
    says = f"the policy has stopped trying: {left:.0%} of its first entropy, and no rise of return"
    weight = max(5 * run.config.ppo.entropy_weight, 0.01)
    return Finding("entropy collapsed", says, f"ppo.entropy_weight={weight:.2g}")


def _discount_too_short(run: History) -> Finding | None:
    length, discount = run.middle(LENGTH, LATE), run.config.ppo.discount
    horizon = 1 / max(1 - discount, 1e-6)
    rare = run.middle("rollout/large_reward_share") * length < FEW_REWARDS
    if not length > FAR * horizon or not rare:
        return None
    says = f"few large rewards in {length:.0f} steps of an episode; the discount sees {horizon:.0f}"
    return Finding("discount too short", says, f"ppo.discount={1 - 1 / length:.4g}")


def _rollout_too_short(run: History) -> Finding | None:
    ppo, length = run.config.ppo, run.middle(LENGTH, LATE)
    seen = ppo.sequence_length or ppo.num_steps
    # a return may rise for other reasons than what is remembered
    enough = FEW_STEPS if run.learned else MANY_STEPS
    short = length > LONG * seen and seen < enough
    if not short or set(kinds_of(run.config.core)) == {"none"}:
        return None
    says = f"gradients flow through {seen} steps, episodes take {length:.0f}"
    steps = min(2 ** int(np.ceil(np.log2(length))), MANY_STEPS)
    whole = ["ppo.sequence_length=null"] if ppo.sequence_length else []
    more = [f"ppo.num_steps={steps}"] if seen == ppo.num_steps else []
    return Finding("rollout too short", says, " ".join([*more, *whole]))


def _schedule_ended(run: History) -> Finding | None:
    config, returns = run.config, run.curves[RETURN]
    if config.ppo.learning_rate_schedule != "linear" or run.steps < config.total_steps:
        return None
    if len(returns) < FEWEST_ROWS or not run.learned:
        return None
    parts = (slice(0, 0.2), slice(0.7, 0.8), slice(0.95, 1))
    first, before, last = (run.middle(RETURN, part) for part in parts)
    total, late = last - first, last - before
    if not late >= STILL_RISING * total:
        return None
    says = (
        f"the return was still rising when the rate had fallen to zero: {late:.3g} of {total:.3g}"
    )
    return Finding("schedule ended", says, f"total_steps={2 * config.total_steps}")


def _evaluation_apart(run: History) -> Finding | None:
    evaluated, returns = run.values("eval/mean_reward"), run.values(RETURN)
    if not len(evaluated) or len(returns) < FEWEST_ROWS:
        return None
    far = APART * np.ptp(returns) if run.learned else FAR_APART * run.middle(SPREAD)
    # where all episodes are alike, only rounding tells the two apart
    if not returns[-1] - evaluated[-1] >= max(far, 1e-6 * abs(returns[-1])) > 0:
        return None
    says = f"the last evaluation returned {evaluated[-1]:.4g}, training {returns[-1]:.4g}"
    return Finding("evaluation below training", says, "evaluation.deterministic=false")


def _memory_mixed(run: History) -> Finding | None:
    strength, overlap = run.middle("memory/beta", LATE), run.middle("memory/key_overlap", LATE)
    if run.learned:
        return None
    if strength < LEAST_BETA or strength > MOST_BETA:
        says = f"write strength {strength:.3g}: " + (
            "nothing is written" if strength < 0.5 else "every write replaces all under its key"
        )
        return Finding("memory unused", says, _rate(run, 0.3))
    if overlap > OVERLAP:
        says = f"keys overlap by {overlap:.3g}: different things meet at one address"
        return Finding("keys alike", says, _rate(run, 0.3))
    return None


def _no_rise(run: History) -> Finding | None:
    returns, late = run.values(RETURN), run.values(RETURN, slice(0.8, 1))
    if len(returns) < FEWEST_ROWS or not len(late) or run.learned:
        return None
    first, last = returns[:2].mean(), late.mean()
    # what was learned within the first iterations has not risen since
    if last - first > run.middle(SPREAD):
        return None
    says = f"the return has not risen clearly: {first:.3g} at first, {last:.3g} in the last fifth"
    share = run.middle("rollout/large_reward_share")
    answers = share < EVERY_STEP and share * run.middle(LENGTH) >= FEW_REWARDS
    if answers and run.config.ppo.gae_lambda >= LONG_LAMBDA:
        return Finding("no rise", says, f"ppo.gae_lambda={SHORT_LAMBDA:g}")
    over = run.steps >= run.config.total_steps
    longer = f"total_steps={LONGER * run.config.total_steps}" if over else ""
    return Finding("no rise", says, longer)


# What keeps a return from rising, each before what follows from it: only the first found is told.
CAUSES: Sequence[Callable[[History], Finding | None]] = (
    _endless,
    _same_return,
    _blind,
    _goal_never_reached,
    _rate_too_high,
    _ruled_by_value,
    _rate_too_low,
    _entropy_collapsed,
    _discount_too_short,
    _rollout_too_short,
    _critic_dead,
    _memory_mixed,
    _no_rise,
)
# Remarks that any run may deserve.
REMARKS: Sequence[Callable[[History], Finding | None]] = (
    _skipped,
    _evaluation_apart,
    _schedule_ended,
)


def diagnose(run: Path, control: Path | None = None) -> list[Finding]:
    """The findings on a run, the cause first, or that it is short; none if all is well.

    Args:
        run: Its directory.
        control: The directory of the same training without memory (``core.kind=none``).

    Raises:
        ConfigError: If a directory is not a run.
        FileError: If its table of metrics cannot be read.
    """
    history = read_history(run)
    rows = len(history.curves["train/approx_kl"])
    if rows < FEWEST_ROWS:
        return [_too_short(history.config, rows)]
    causes = filter(None, (check(history) for check in CAUSES))
    found = [*islice(causes, 1), *filter(None, (check(history) for check in REMARKS))]
    if control is not None:
        found += filter(None, [_memory_not_needed(history, read_history(control))])
    return [_without_old_remedy(history.config, each) for each in found]


def _without_old_remedy(config: RunConfig, finding: Finding) -> Finding:
    """The finding, whose remedy is not said where the run has it already or cannot have it."""
    values = config.model_dump(mode="json")
    try:
        apply_overrides(values, finding.override.split())
        new = validate(RunConfig, values) != config
    except ConfigError:
        new = False
    return finding if new else finding._replace(override="")


def _too_short(config: RunConfig, rows: int) -> Finding:
    steps = FEWEST_ROWS * config.env.num_envs * config.ppo.num_steps
    says = f"{rows} iterations are logged, and fewer than {FEWEST_ROWS} say nothing"
    return Finding(TOO_SHORT, says, f"total_steps={steps}" if config.total_steps < steps else "")


def _memory_not_needed(run: History, control: History) -> Finding | None:
    ours, theirs = (each.values(RETURN, slice(0.8, 1)) for each in (run, control))
    if not len(ours) or not len(theirs) or not (run.learned or control.learned):
        return None
    rise = ours.mean() - run.values(RETURN, slice(0, 0.1)).mean()
    if theirs.mean() < ours.mean() - 0.1 * abs(rise):
        return None
    says = f"without memory the return is {theirs.mean():.4g}, with it {ours.mean():.4g}"
    return Finding("memory not needed", says, "core.kind=none")


def _rate(run: History, factor: float) -> str:
    return f"ppo.learning_rate={run.config.ppo.learning_rate * factor:.2g}"


def of_several(runs: Sequence[Path]) -> str:
    """The findings on runs of one kind, counted, in one line; empty if there are none."""
    found = [each.name for run in runs for each in _diagnosed(run)]
    counts = Counter(found).most_common()
    return "; ".join(f"{name} ({count} of {len(runs)} runs)" for name, count in counts)


def in_one_line(run: Path) -> str:
    """The first finding on a run that has ended; empty if there is none."""
    first = next(iter(_diagnosed(run)), None)
    if first is None:
        return ""
    remedy = f"; try {first.override}" if first.override else ""
    return f"{first.name}: {first.says}{remedy}"


def _diagnosed(run: Path) -> list[Finding]:
    """The findings that nobody has asked for: none where a run is short or cannot be read."""
    try:
        return [each for each in diagnose(run) if each.name != TOO_SHORT]
    except OneLineError:
        return []


def in_words(run: Path, found: Sequence[Finding]) -> str:
    """Findings as lines for people."""
    if not found:
        return f"{run}: nothing to say"
    lines = [
        f"{each.name}: {each.says}" + (f"\n  try {each.override}" if each.override else "")
        for each in found
    ]
    return "\n".join(lines)


def as_json(run: Path, found: Sequence[Finding]) -> str:
    """Findings as a JSON object."""
    return json.dumps({"run": str(run), "findings": [each._asdict() for each in found]})
