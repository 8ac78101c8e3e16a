"""Recurrent PPO with a GRU, compiled by JAX: acting, the task and the update are one program.

The network is that of PureJaxRL's ``ppo_rnn`` (Lu et al. 2022): a linear layer, a GRU, and two
heads with one hidden layer each. Loss, clipping, advantages and Adam are those of ``agents.ppo``.
Episodes that begin inside a sequence start from zeros, exactly. What does not depend on the loop
over time is taken out of it, forward and backward. Written for this benchmark; nothing else uses
it, and nothing else here needs JAX.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.nn import initializers
from jaxtyping import Bool, Float, Int

from agents.ppo import PPOConfig, schedule
from fwrl.bench.speed.child import serve
from fwrl.bench.speed.jax_tasks import TASKS, Episodes, Task, advance, begin, observe, reopen
from fwrl.bench.speed.job import TrainingConfig

Parameters = dict[str, Array]


class Batch(NamedTuple):
    """A rollout; time first, then environments."""

    features: Float[Array, "T N F"]
    starts: Bool[Array, "T N"]
    action: Int[Array, "T N"]
    log_prob: Float[Array, "T N"]
    advantage: Float[Array, "T N"]
    target: Float[Array, "T N"]


class Carry(NamedTuple):
    """All that one iteration leaves to the next."""

    parameters: Parameters
    adam: Any
    episodes: Episodes
    features: Float[Array, "N F"]
    starts: Bool[Array, " N"]
    state: Float[Array, "N D"]
    key: Array


def make_parameters(key: Array, num_features: int, num_actions: int, width: int) -> Parameters:
    """The initial parameters: weights by name, and biases by the same names with ``_bias``."""
    orthogonal, uniform = initializers.orthogonal, initializers.lecun_normal()
    layers = {
        "encoder": (orthogonal(2**0.5), (num_features, width)),
        "input": (uniform, (width, 3 * width)),
        "recurrent": (orthogonal(1.0), (width, 3 * width)),
        "actor": (orthogonal(2**0.5), (width, width)),
        "logits": (orthogonal(0.01), (width, num_actions)),
        "critic": (orthogonal(2**0.5), (width, width)),
        "value": (orthogonal(1.0), (width, 1)),
    }
    keys = jax.random.split(key, len(layers))
    parameters = {
        name: make(each, shape)
        for each, (name, (make, shape)) in zip(keys, layers.items(), strict=True)
    }
    return parameters | {f"{name}_bias": jnp.zeros(shape[1]) for name, (_, shape) in layers.items()}


def linear(parameters: Parameters, name: str, x: Float[Array, "*B D"]) -> Float[Array, "*B E"]:
    """A linear layer."""
    return x @ parameters[name] + parameters[f"{name}_bias"]


def gates(
    projected: Float[Array, "*B G"], recurrent: Float[Array, "*B G"], state: Float[Array, "*B D"]
) -> Float[Array, "*B D"]:
    """The next state of a GRU (Cho et al. 2014), from the two products of its gates."""
    (reset, update, new), (reset_, update_, new_) = (
        jnp.split(each, 3, -1) for each in (projected, recurrent)
    )
    keep = jax.nn.sigmoid(update + update_)
    return keep * state + (1 - keep) * jnp.tanh(new + jax.nn.sigmoid(reset + reset_) * new_)


def _cleared(starts: Bool[Array, " N"], state: Float[Array, "N D"]) -> Float[Array, "N D"]:
    return jnp.where(starts[:, None], 0.0, state)


@jax.custom_vjp
def unroll(
    weight: Float[Array, "D G"],
    bias: Float[Array, " G"],
    projected: Float[Array, "T N G"],
    starts: Bool[Array, "T N"],
    state: Float[Array, "N D"],
) -> Float[Array, "T N D"]:
    """The states of a GRU at all times; where an episode starts it forgets first."""
    return _forward(weight, bias, projected, starts, state)[0]


def _forward(weight: Any, bias: Any, projected: Any, starts: Any, state: Any) -> Any:
    def step(state: Any, now: Any) -> Any:
        projected, starts = now
        previous = _cleared(starts, state)
        recurrent = previous @ weight + bias
        state = gates(projected, recurrent, previous)
        return state, (state, previous, recurrent)

    _, (states, previous, recurrent) = jax.lax.scan(step, state, (projected, starts))
    return states, (weight, projected, starts, previous, recurrent)


def _backward(saved: Any, gradient: Any) -> Any:
    weight, projected, starts, previous, recurrent = saved
    # the gates act on every unit by itself, so that these are their derivatives at all times
    slopes = jax.vjp(gates, projected, recurrent, previous)[1](jnp.ones_like(previous))
    slopes = [each.reshape(*previous.shape[:2], -1, previous.shape[2]) for each in slopes]

    def step(later: Any, now: Any) -> Any:
        gradient, starts, recurrent, direct = now
        total = (gradient + later)[:, None]
        products = (total * recurrent).reshape(total.shape[0], -1)
        earlier = (total * direct)[:, 0] + products @ weight.T
        return _cleared(starts, earlier), (total, products)

    given = (gradient, starts, slopes[1], slopes[2])
    _, (total, products) = jax.lax.scan(step, jnp.zeros_like(gradient[0]), given, reverse=True)
    flat = products.reshape(-1, products.shape[-1])
    return (
        previous.reshape(flat.shape[0], -1).T @ flat,
        flat.sum(0),
        (total * slopes[0]).reshape(projected.shape),
        None,
        None,
    )


unroll.defvjp(_forward, _backward)


def heads(
    parameters: Parameters, states: Float[Array, "*B D"]
) -> tuple[Float[Array, "*B A"], Float[Array, "*B"]]:
    """Logits of the actions, and values."""
    return logits_of(parameters, states), value_of(parameters, states)


def logits_of(parameters: Parameters, states: Float[Array, "*B D"]) -> Float[Array, "*B A"]:
    """Unnormalised logarithms of the probabilities of actions."""
    return linear(parameters, "logits", jax.nn.relu(linear(parameters, "actor", states)))


def value_of(parameters: Parameters, states: Float[Array, "*B D"]) -> Float[Array, "*B"]:
    """The critic's estimates."""
    return linear(parameters, "value", jax.nn.relu(linear(parameters, "critic", states)))[..., 0]


def gae(
    reward: Float[Array, "T N"],
    value: Float[Array, "T N"],
    after: Float[Array, " N"],
    last: Bool[Array, "T N"],
    discount: float,
    gae_lambda: float,
) -> Float[Array, "T N"]:
    """Generalised advantage estimates; ``after`` is the value of what the rollout ends at."""
    following = jnp.concatenate([value[1:], after[None]])
    error = reward + discount * jnp.where(last, 0.0, following) - value

    def step(later: Any, now: Any) -> Any:
        error, last = now
        later = error + discount * gae_lambda * jnp.where(last, 0.0, later)
        return later, later

    return jax.lax.scan(step, jnp.zeros_like(after), (error, last), reverse=True)[1]


def ppo_loss(
    parameters: Parameters, batch: Batch, state: Float[Array, "N D"], config: PPOConfig
) -> Float[Array, ""]:
    """The clipped surrogate loss, the value loss and the entropy bonus."""
    x = jax.nn.relu(linear(parameters, "encoder", batch.features))
    projected = linear(parameters, "input", x)
    weight, bias = parameters["recurrent"], parameters["recurrent_bias"]
    states = unroll(weight, bias, projected, batch.starts, state)
    logits, value = heads(parameters, states)
    every = jax.nn.log_softmax(logits)
    log_prob = jnp.take_along_axis(every, batch.action[..., None], -1)[..., 0]
    advantage = batch.advantage
    advantage = (advantage - advantage.mean()) / (advantage.std(ddof=1) + 1e-8)
    ratio = jnp.exp(log_prob - batch.log_prob)
    clipped = jnp.clip(ratio, 1 - config.clip, 1 + config.clip)
    policy_loss = -jnp.minimum(ratio * advantage, clipped * advantage).mean()
    value_loss = jnp.square(value - batch.target).mean()
    entropy = -(jnp.exp(every) * every).sum(-1).mean()
    return policy_loss + config.value_weight * value_loss - config.entropy_weight * entropy


class Agent:
    """An agent in its task; ``iterate`` is a rollout and its updates in one call of a program."""

    def __init__(self, job: TrainingConfig) -> None:
        self.job = job
        self.task = TASKS[job.task](**job.options)
        ppo = job.ppo
        clip = optax.clip_by_global_norm(ppo.max_grad_norm or math.inf)
        self.adam = optax.chain(clip, optax.scale_by_adam(eps=ppo.adam_epsilon))
        self.steps = 0
        opened = jax.jit(partial(opening, self.task, job, self.adam))
        self.carry: Carry = opened(jax.random.key(job.seed))
        rate = jnp.float32(ppo.learning_rate)
        program = jax.jit(partial(iteration, self.task, self.job, self.adam), donate_argnums=0)
        self.program = program.lower(self.carry, rate).compile()

    def iterate(self) -> None:
        """Act, then learn."""
        ppo = self.job.ppo
        rate = schedule(ppo, self.job.remaining(self.steps)).learning_rate
        self.carry = jax.block_until_ready(self.program(self.carry, jnp.float32(rate)))
        self.steps += ppo.num_steps * self.job.num_envs

    def evaluate(self, episodes: int) -> float:
        """The mean return of the most probable actions in other episodes."""
        play = jax.jit(partial(mean_return, self.task, self.job, episodes))
        return float(play(self.carry.parameters, jax.random.key(self.job.seed + 1)))


def opening(
    task: Task, job: TrainingConfig, adam: optax.GradientTransformation, key: Array
) -> Carry:
    """A new agent before its first episodes."""
    key, weights, deal = jax.random.split(key, 3)
    episodes = begin(task, deal, job.num_envs)
    nothing = jnp.zeros(job.num_envs)
    features = features_of(task, job, episodes, nothing.astype(int), nothing)
    parameters = make_parameters(weights, features.shape[1], task.num_answers, job.width)
    state = jnp.zeros((job.num_envs, job.width))
    return Carry(parameters, adam.init(parameters), episodes, features, nothing == 0, state, key)


def features_of(
    task: Task,
    job: TrainingConfig,
    episodes: Episodes,
    action: Int[Array, " N"],
    reward: Float[Array, " N"],
) -> Float[Array, "N F"]:
    """The inputs of the network: the observation, and what else the job asks for."""
    columns = zip(observe(episodes).T, task.symbols, strict=True)
    features = [jax.nn.one_hot(column, count) for column, count in columns]
    opens = episodes.time[:, None] == 0
    if job.previous:
        last = jnp.concatenate([jax.nn.one_hot(action, task.num_answers), reward[:, None]], 1)
        features.append(jnp.where(opens, 0.0, last))
    if job.time_frequencies:
        exponents = jnp.arange(job.time_frequencies) / job.time_frequencies
        angles = episodes.time[:, None] * jnp.exp(-math.log(10_000.0) * exponents)
        features += [jnp.sin(angles), jnp.cos(angles)]
    return jnp.concatenate(features, 1)


def read(
    parameters: Parameters,
    features: Float[Array, "N F"],
    starts: Bool[Array, " N"],
    state: Float[Array, "N D"],
) -> Float[Array, "N D"]:
    """The next state, after the features of one time."""
    previous = _cleared(starts, state)
    x = jax.nn.relu(linear(parameters, "encoder", features))
    recurrent = linear(parameters, "recurrent", previous)
    return gates(linear(parameters, "input", x), recurrent, previous)


def rollout(task: Task, job: TrainingConfig, carry: Carry) -> tuple[Carry, Batch]:
    """Act for ``num_steps`` steps in every environment."""
    ppo, parameters = job.ppo, carry.parameters
    key, noise, deals = jax.random.split(carry.key, 3)
    shape = (ppo.num_steps, job.num_envs, task.num_answers)

    def step(carry: Carry, now: Any) -> Any:
        noise, deal = now
        state = read(parameters, carry.features, carry.starts, carry.state)
        every = jax.nn.log_softmax(logits_of(parameters, state))
        action = jnp.argmax(every + noise, -1)
        log_prob = jnp.take_along_axis(every, action[:, None], 1)[:, 0]
        episodes, reward, last = advance(task, carry.episodes, action)
        episodes = reopen(task, episodes, last, deal)
        reward = job.reward_scale * reward
        features = features_of(task, job, episodes, action, reward)
        seen = (carry.features, carry.starts, action, log_prob, reward, last, state)
        return carry._replace(episodes=episodes, features=features, starts=last, state=state), seen

    drawn = (jax.random.gumbel(noise, shape), jax.random.split(deals, ppo.num_steps))
    carry, seen = jax.lax.scan(step, carry._replace(key=key), drawn)
    features, starts, action, log_prob, reward, last, states = seen
    # the critic does not act, so that it can read all states at once
    value = value_of(parameters, states)
    after = value_of(parameters, read(parameters, carry.features, carry.starts, carry.state))
    advantage = gae(reward, value, after, last, ppo.discount, ppo.gae_lambda)
    return carry, Batch(features, starts, action, log_prob, advantage, advantage + value)


def iteration(
    task: Task, job: TrainingConfig, adam: optax.GradientTransformation, before: Carry, rate: Array
) -> Carry:
    """A rollout and its updates, on minibatches of whole streams."""
    ppo = job.ppo
    carry, batch = rollout(task, job, before)
    key, shuffle = jax.random.split(carry.key)
    orders = jax.vmap(partial(jax.random.permutation, x=job.num_envs))(
        jax.random.split(shuffle, ppo.epochs)
    )

    def update(learner: Any, rows: Array) -> Any:
        parameters, moments = learner
        part = Batch(*(column[:, rows] for column in batch))
        gradient = jax.grad(ppo_loss)(parameters, part, before.state[rows], ppo)
        change, moments = adam.update(gradient, moments)
        change = jax.tree.map(partial(jnp.multiply, -rate), change)
        return (optax.apply_updates(parameters, change), moments), None

    rows = orders.reshape(ppo.epochs * ppo.minibatches, -1)
    (parameters, moments), _ = jax.lax.scan(update, (carry.parameters, carry.adam), rows)
    return carry._replace(parameters=parameters, adam=moments, key=key)


def mean_return(
    task: Task, job: TrainingConfig, episodes: int, parameters: Parameters, key: Array
) -> Float[Array, ""]:
    """The mean return of so many episodes, of the most probable actions."""
    nothing = jnp.zeros(episodes)
    running = begin(task, key, episodes)
    first = features_of(task, job, running, nothing.astype(int), nothing)

    def step(carry: Any, _: None) -> Any:
        running, features, starts, state, total = carry
        state = read(parameters, features, starts, state)
        action = jnp.argmax(logits_of(parameters, state), -1)
        running, reward, last = advance(task, running, action)
        features = features_of(task, job, running, action, job.reward_scale * reward)
        return (running, features, last, state, total + reward), None

    carry = (running, first, nothing == 0, jnp.zeros((episodes, job.width)), nothing)
    (*_, total), _ = jax.lax.scan(step, carry, None, task.length)
    return total.mean()


if __name__ == "__main__":
    serve(Agent)
