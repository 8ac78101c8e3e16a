"""Tasks of ``envs.tasks`` in jax.numpy, so that XLA compiles them with the agent that learns them.

Rules, levels, lengths and rewards are ours; only the random numbers are drawn by JAX.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from envs.tasks.cards import DECK_SIZE, SUITS
from envs.tasks.question_task import NOT_ASKED
from envs.tasks.repeat_previous import LEVELS

# All observations of an episode, and the right answer at each of its time steps.
Script = tuple[Int[Array, "seen C"], Int[Array, " asked"]]


class Task(NamedTuple):
    """A task that asks questions: no action changes what it shows and asks."""

    script: Callable[[Array], Script]
    """One episode, from a random key."""
    symbols: tuple[int, ...]
    """How many symbols there are in each of the C columns of an observation."""
    num_answers: int
    length: int
    """Actions in an episode."""
    num_questions: int


class Episodes(NamedTuple):
    """The running episode of each of N environments."""

    seen: Int[Array, "N seen C"]
    answers: Int[Array, "N asked"]
    time: Int[Array, " N"]


def begin(task: Task, key: Array, count: int) -> Episodes:
    """New episodes in ``count`` environments."""
    seen, answers = jax.vmap(task.script)(jax.random.split(key, count))
    return Episodes(seen, answers, jnp.zeros(count, jnp.int32))


def observe(episodes: Episodes) -> Int[Array, "N C"]:
    """The observations: the symbols on the table."""
    return jax.vmap(_at)(episodes.seen, episodes.time)


def _at(column: Array, time: Array) -> Array:
    return column[time]


def advance(
    task: Task, episodes: Episodes, action: Int[Array, " N"]
) -> tuple[Episodes, Float[Array, " N"], Bool[Array, " N"]]:
    """Step all environments; returns their rewards, and whether that ended their episodes."""
    answer = jax.vmap(_at)(episodes.answers, episodes.time)
    prize = jnp.float32(1 / task.num_questions)
    reward = jnp.where(answer == NOT_ASKED, 0.0, jnp.where(answer == action, prize, -prize))
    time = episodes.time + 1
    return episodes._replace(time=time), reward, time == task.length


def reopen(task: Task, episodes: Episodes, last: Bool[Array, " N"], key: Array) -> Episodes:
    """The next episode where one has ended; the others go on."""

    def choose(new: Array, running: Array) -> Array:
        return jnp.where(last.reshape(-1, *[1] * (new.ndim - 1)), new, running)

    def deal() -> Episodes:
        return jax.tree.map(choose, begin(task, key, last.shape[0]), episodes)

    return jax.lax.cond(last.any(), deal, lambda: episodes)


def repeat_previous(level: str = "easy") -> Task:
    """RepeatPrevious at a level of ours."""
    num_decks, k = LEVELS[level]
    cards = num_decks * DECK_SIZE

    def script(key: Array) -> Script:
        return suits_in_order(jax.random.permutation(key, cards) % len(SUITS), k)

    return Task(script, (len(SUITS),), len(SUITS), cards - 1, cards - k)


def suits_in_order(suits: Int[Array, " seen"], k: int) -> Script:
    """The episode that shows these suits and asks for the k-th last."""
    length = suits.shape[0] - 1
    answers = jnp.full(length, NOT_ASKED).at[k - 1 :].set(suits[: length + 1 - k])
    return suits[:, None], answers


def key_value_recall(num_keys: int, num_values: int, num_rewrites: int, num_queries: int) -> Task:
    """KeyValueRecall of these sizes."""
    writes = num_keys + num_rewrites

    def script(key: Array) -> Script:
        again, order, start, change, ask = jax.random.split(key, 5)
        repeated = jax.random.randint(again, (num_rewrites,), 0, num_keys)
        keys = jax.random.permutation(order, jnp.concatenate([jnp.arange(num_keys), repeated]))
        return pairs_in_order(
            keys,
            jax.random.randint(start, (num_keys,), 0, num_values),
            jax.random.randint(change, (writes,), 1, num_values),
            jax.random.permutation(ask, num_keys)[:num_queries],
            num_values,
        )

    return Task(script, (num_keys, num_values + 1), num_values, writes + num_queries, num_queries)


def pairs_in_order(
    keys: Int[Array, " writes"],
    start: Int[Array, " keys"],
    change: Int[Array, " writes"],
    queries: Int[Array, " queries"],
    num_values: int,
) -> Script:
    """The episode that writes these keys, changing their values by ``change``, and asks."""
    written = change[:, None] * (keys[:, None] == jnp.arange(start.shape[0]))
    values = (start + jnp.cumsum(written, 0)) % num_values
    latest = values[jnp.arange(keys.shape[0]), keys]
    # after the last answer the last question is still on the table
    asked = jnp.append(queries, queries[-1])
    pairs = jnp.stack([keys, latest], 1)
    questions = jnp.stack([asked, jnp.full_like(asked, num_values)], 1)
    answers = jnp.concatenate([jnp.full_like(keys, NOT_ASKED), values[-1, queries]])
    return jnp.concatenate([pairs, questions]), answers


TASKS: Mapping[str, Callable[..., Task]] = {
    "RepeatPrevious": repeat_previous,
    "KeyValueRecall": key_value_recall,
}
