"""The properties that `check-env` looks at, and the findings that it reports of them."""

from typing import NamedTuple

from envs.check.strict_wrapper import Complaints, Verdict


class Property(NamedTuple):
    """The sentences that a report has for one property."""

    holds: str
    """Said where it holds."""
    repair: str = ""
    """Advice where it is broken."""
    remark: str = ""
    """Advice where something is worth a note."""


PROPERTIES = {
    "runs": Property(
        "nothing was raised",
        "correct the environment; a training would lose each such episode and go on",
    ),
    "space": Property(
        "observations are in their space, of its shape and type",
        "widen observation_space, or convert what reset and step return",
        "it trains all the same; other libraries may refuse it",
    ),
    "finite": Property(
        "observations and rewards are finite",
        "correct the environment; a training would lose each such episode and go on",
    ),
    "types": Property(
        "terminated and truncated are booleans, rewards are numbers",
        "return bool(terminated), bool(truncated), float(reward) and a dict",
        "it trains all the same; other libraries may refuse it",
    ),
    "ends": Property(
        "an episode's last observation and the next one's first are told apart",
        "info['final_obs'] is what an episode ended on, the observation opens the next one",
        "if none ever ends, set max_episode_steps: an evaluation waits for ends of episodes",
    ),
    "arrays": Property(
        "arrays are left alone once they were returned or given", "return copies, write into copies"
    ),
    "deterministic": Property(
        "the same seed and actions give the same, bit for bit",
        "draw all chance from self.np_random, after super().reset(seed=seed)",
    ),
    "alone": Property(
        "two at once are two one by one",
        "keep what an environment changes in the instance, not in its class or module",
    ),
    "mask": Property("every action mask leaves something to choose", "allow at least one action"),
    "seeds": Property(
        "another seed gives something else",
        remark="fine where nothing is random; otherwise call super().reset(seed=seed)",
    ),
    "success": Property(""),
    "exact": Property(
        "continued in a fresh instance and in a used one, the same bit for bit",
        "make every instance do the same",
        "let reset set everything; until then a continued run is not the undisturbed one",
    ),
}

# looked at whenever environments are played
LOOKED_AT = ("runs", "space", "finite", "types", "ends", "arrays")


class Finding(NamedTuple):
    """The verdict on one property."""

    name: str
    verdict: Verdict
    """``broken`` breaks the contract; a ``note`` is worth knowing."""
    what: str
    advice: str
    """Empty where all is well."""


def findings(found: Complaints) -> tuple[Finding, ...]:
    """A finding for each property that was looked at, in the order of ``PROPERTIES``."""
    result: list[Finding] = []
    for name, (holds, repair, remark) in PROPERTIES.items():
        if name in found.found:
            verdict, what, times = found.found[name]
            often = f" ({times} times)" if times > 1 and verdict == "broken" else ""
            words = f"{what}{often}" if what else holds
            advice = {"ok": "", "note": remark, "broken": repair}[verdict]
            result.append(Finding(name, verdict, words, advice))
    return tuple(result)
