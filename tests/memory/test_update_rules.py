import itertools

import numpy as np
import pytest
import torch

from fwrl.cores.parts.normalised import normalised_scan
from fwrl.kernels import scan
from fwrl.update_rules import UPDATE_RULES, Write, exact_beta, read, sum_rule

every_rule = pytest.mark.parametrize("name", sorted(UPDATE_RULES))
every_kernel = pytest.mark.parametrize("kernel", ["reference", "chunked"])

KEYS = [(0.6, 0.4), (0.6, 0.4), (0.2, 0.8)]
VALUES = [(1, 0), (0, 1), (1, 1)]
BETA = [0.5, 1, 0.8]
DECAY = [0.9, 0.5, 0.8]
CHANNEL_DECAY = [(0.9, 0.5), (0.5, 0.8), (0.8, 0.9)]
ERASE = [(0.3, 0.9), (1, 0.5), (0.7, 0.2)]
QUERY = (0.5, 0.5)

# rule, unit keys and query, factor of beta, last weights (rows are values), what is read
GOLDEN = {
    "sum": ("sum", False, 1, [0.8, 1.2, 0.8, 1.2], [1, 1]),
    "delta": ("delta", False, 1, [0.287104, 0.668416, 0.6896, 0.7584], [0.47776, 0.724]),
    "gated_sum": ("gated_sum", False, 1, [0.16, 0.64, 0.28, 0.72], [0.4, 0.5]),
    "delta, unit keys": (
        *("delta", True, 1),
        [0.1940285, 0.776114, 0.882509332, 0.756536346],
        [0.685994341, 1.158980314],
    ),
    "gated_delta, unit keys": (
        *("gated_delta", True, 1),
        [0.1940285, 0.776114, 0.744813165, 0.760451877],
        [0.685994341, 1.064383119],
    ),
    "delta, unit keys, twice beta": (
        *("delta", True, 2),
        [-0.156854369, 2.146083504, 1.477879739, 0.364516992],
        [1.406597411, 1.302771222],
    ),
    "kda, unit keys": (
        *("kda", True, 1),
        [0.15499367, 0.794705242, 0.73437175, 0.774156235],
        [0.67153854, 1.066690368],
    ),
    "gated_delta_2, unit keys": (
        *("gated_delta_2", True, 1),
        [0.254402695, 1.100815811, 0.85727396, 1.265765075],
        [0.958284196, 1.501215299],
    ),
    "longhorn": (
        *("longhorn", False, 1),
        [0.248364867, 0.471320789, 0.468366512, 0.557676575],
        [0.359842828, 0.513021543],
    ),
    "efla": (
        *("efla", False, 1),
        [0.266247489, 0.541472509, 0.548926107, 0.636168075],
        [0.403859999, 0.592547091],
    ),
    "clipped_delta": (
        *("clipped_delta", False, 1),
        [0.228412928, 0.531775439, 0.548628912, 0.603364511],
        [0.380094184, 0.575996712],
    ),
}


def doubles(numbers):
    return torch.tensor(numbers, dtype=torch.double)


def worked_example(unit=False, factor=1, channels=False):
    key, query = doubles(KEYS), doubles([QUERY] * 3)
    if unit:
        key, query = (x / x.norm(dim=-1, keepdim=True) for x in (key, query))
    # one stream, one head
    key, query, value = (x[None, :, None] for x in (key, query, doubles(VALUES)))
    beta, decay = (doubles(x)[None, :, None, None] for x in (BETA, DECAY))
    if channels:
        decay = doubles(CHANNEL_DECAY)[None, :, None]
    erase = doubles(ERASE)[None, :, None]
    return query, Write(key, value, factor * beta, decay, removal_rate=erase)


@pytest.mark.parametrize(
    ("case", "kernel"),
    [(case, "reference") for case in GOLDEN]
    + [(case, "chunked") for case, (name, *_) in GOLDEN.items() if UPDATE_RULES[name].form],
)
def test_rules_are_the_worked_example(case, kernel):
    name, unit, factor, weights, values = GOLDEN[case]
    query, write = worked_example(unit, factor, channels=channels_of(name, 2) > 1)
    state, starts = doubles(np.zeros((1, 1, 2, 2))), torch.zeros(1, 3, dtype=torch.bool)
    read_values, end = scan(UPDATE_RULES[name], state, query, write, starts, kernel=kernel)
    # the numbers of some cases are given to nine digits
    torch.testing.assert_close(end[0, 0].T.flatten(), doubles(weights), atol=1e-8, rtol=0)
    torch.testing.assert_close(read_values[0, -1, 0], doubles(values), atol=1e-8, rtol=0)


@every_kernel
@pytest.mark.parametrize(
    ("name", "weights", "values"),
    [
        ("sum", [0.8, 1.2, 0.8, 1.2], [2 / 3, 2 / 3]),
        ("delta", [0.16, 0.64, 0.68, 0.72], [4 / 15, 7 / 15]),
    ],
)
def test_attention_normalisation_is_the_worked_example(name, weights, values, kernel):
    query, write = worked_example()
    state, starts = doubles(np.zeros((1, 1, 2, 3))), torch.zeros(1, 3, dtype=torch.bool)
    rule = UPDATE_RULES[name]
    read_values, end = normalised_scan(rule, state, query, write, starts, kernel=kernel)
    torch.testing.assert_close(end[0, 0, :, :2].T.flatten(), doubles(weights))
    torch.testing.assert_close(end[0, 0, :, 2], doubles([1.4, 1.6]))
    torch.testing.assert_close(read_values[0, -1, 0], doubles(values))


def random_write(seed=0, batch=2, heads=3, key_size=4, value_size=5, channels=1):
    generator = torch.Generator().manual_seed(seed)

    def random(size):
        return torch.randn(batch, heads, size, dtype=torch.double, generator=generator)

    weights = random(key_size * value_size).unflatten(-1, (key_size, value_size))
    return weights, Write(
        random(key_size),
        random(value_size),
        random(1).sigmoid(),
        random(channels).sigmoid(),
        random(key_size),
        random(key_size).sigmoid(),
    )


def channels_of(name, key_size):
    return key_size if UPDATE_RULES[name].decay == "feature" else 1


def numpy_strength(name, beta, length):
    """The factor of the addition, for a key of this squared length."""
    match name:
        case "longhorn":
            return beta / (1 + beta * length)
        case "efla":
            return (1 - np.exp(-beta * length)) / length
        case "gated_delta_2":
            return 1
        case _:
            return beta


def numpy_rule(name, old, key, value, beta, decay, removal_key, removal_rate):
    """One rule, one matrix, one entry after another; values are the rows, as in the papers."""
    new, (beta,) = old.copy(), beta
    rows, columns = range(len(value)), range(len(key))
    if name == "gated_sum":
        new *= 1 - beta
    if name in ("decayed_sum", "gated_delta", "kda", "gated_delta_2", "generalised_delta"):
        new *= decay
    beta = numpy_strength(name, beta, sum(key[c] ** 2 for c in columns))
    looks = removal_rate * key if name == "gated_delta_2" else key
    stored = old @ removal_key if name == "generalised_delta" else new @ looks
    for row, column in itertools.product(rows, columns):
        match name:
            case "sum" | "sigmoid_sum":
                new[row, column] += value[row] * key[column]
            case "gated_sum" | "decayed_sum":
                new[row, column] += beta * value[row] * key[column]
            case "generalised_delta":
                taken = removal_rate[column] * removal_key[column]
                new[row, column] += value[row] * key[column] - stored[row] * taken
            case _:
                new[row, column] += beta * (value[row] - stored[row]) * key[column]
    if name == "clipped_delta":
        new /= max(1, np.sqrt(sum(new[r, c] ** 2 for r in rows for c in columns)))
    return 1 / (1 + np.exp(-new)) if name == "sigmoid_sum" else new


@every_rule
def test_rules_equal_a_loop_over_entries(name):
    weights, write = random_write(channels=channels_of(name, 4))
    new = UPDATE_RULES[name](weights, write).numpy()
    for b, h in np.ndindex(new.shape[:2]):
        fields = (field[b, h].numpy() for field in write)
        expected = numpy_rule(name, weights[b, h].numpy().T, *fields)
        np.testing.assert_allclose(new[b, h].T, expected, rtol=0, atol=1e-12)


@every_rule
def test_gradients_of_each_rule(name):
    channels = channels_of(name, 3)
    weights, write = random_write(batch=1, heads=2, key_size=3, value_size=2, channels=channels)
    inputs = [x.requires_grad_() for x in (weights, *write)]
    assert torch.autograd.gradcheck(
        lambda w, *fields: UPDATE_RULES[name](w, Write(*fields)), inputs
    )


def test_a_full_write_to_a_unit_key_replaces_what_was_there():
    weights, write = random_write()
    key = torch.nn.functional.normalize(write.key, dim=-1)
    write = write._replace(key=key, beta=torch.ones_like(write.beta))
    torch.testing.assert_close(read(UPDATE_RULES["delta"](weights, write), key), write.value)


def test_a_delta_write_leaves_orthogonal_keys_alone_and_a_gated_sum_does_not():
    weights, write = random_write(key_size=2)
    other = torch.stack([write.key[..., 1], -write.key[..., 0]], dim=-1)
    before = read(weights, other)
    torch.testing.assert_close(read(UPDATE_RULES["delta"](weights, write), other), before)
    assert not torch.allclose(read(UPDATE_RULES["gated_sum"](weights, write), other), before)


def test_a_sum_normalised_key_does_not_replace():
    weights, write = random_write()
    key = write.key.softmax(dim=-1)
    write = write._replace(key=key, beta=torch.ones_like(write.beta))
    found = read(UPDATE_RULES["delta"](torch.zeros_like(weights), write), key)
    torch.testing.assert_close(found, key.square().sum(-1, keepdim=True) * write.value)


def test_the_sum_rule_is_linear_in_state_and_value():
    weights, write = random_write(0)
    other_weights, other = random_write(1)
    other = other._replace(key=write.key)
    together = write._replace(value=2 * write.value + other.value)
    torch.testing.assert_close(
        sum_rule(2 * weights + other_weights, together),
        2 * sum_rule(weights, write) + sum_rule(other_weights, other),
    )


def test_a_gated_delta_rule_without_decay_is_the_delta_rule():
    weights, write = random_write()
    write = write._replace(decay=torch.ones_like(write.decay))
    gated, plain = (UPDATE_RULES[name](weights, write) for name in ("gated_delta", "delta"))
    torch.testing.assert_close(gated, plain, atol=0, rtol=0)


def test_decays_that_agree_make_kda_the_gated_delta_rule():
    weights, write = random_write()
    wide = write._replace(decay=write.decay.expand_as(write.key))
    kda, gated = UPDATE_RULES["kda"](weights, wide), UPDATE_RULES["gated_delta"](weights, write)
    torch.testing.assert_close(kda, gated, atol=0, rtol=0)


def test_gates_that_agree_make_gated_delta_2_kda():
    weights, write = random_write(channels=4)
    gated = write._replace(value=write.beta * write.value, removal_rate=write.beta)
    one, other = UPDATE_RULES["gated_delta_2"](weights, gated), UPDATE_RULES["kda"](weights, write)
    torch.testing.assert_close(one, other)


def test_gated_delta_2_erases_without_writing_and_writes_without_erasing():
    weights, write = random_write()
    key = torch.nn.functional.normalize(write.key, dim=-1)
    nothing, everything = torch.zeros_like(key), torch.ones_like(key)
    write = write._replace(key=key, decay=everything)
    rule, before = UPDATE_RULES["gated_delta_2"], read(weights, key)
    erased = write._replace(value=torch.zeros_like(write.value), removal_rate=everything)
    torch.testing.assert_close(read(rule(weights, erased), key), torch.zeros_like(before))
    added = rule(weights, write._replace(removal_rate=nothing))
    torch.testing.assert_close(read(added, key), before + write.value)


def test_one_key_for_all_makes_the_generalised_delta_rule_the_delta_rule():
    weights, write = random_write()
    write = write._replace(value=write.beta * write.value)
    general = write._replace(
        decay=torch.ones_like(write.key),
        removal_key=write.key,
        removal_rate=write.beta.expand_as(write.key),
    )
    plain = write._replace(value=write.value / write.beta)
    torch.testing.assert_close(
        UPDATE_RULES["generalised_delta"](weights, general), UPDATE_RULES["delta"](weights, plain)
    )


def test_implicit_and_exact_steps_are_stable_for_keys_of_any_length_and_the_delta_rule_is_not():
    weights, write = random_write()
    long = write._replace(key=100 * write.key)
    error = {
        name: (read(UPDATE_RULES[name](weights, long), long.key) - long.value).abs().max()
        for name in ("longhorn", "efla", "delta")
    }
    before = (read(weights, long.key) - long.value).abs().max()
    assert error["longhorn"] < 0.1 * before
    assert error["efla"] < 1e-6 * before
    assert error["delta"] > 100 * before


@pytest.mark.parametrize("length", [0, 1e-12, 1e-6, 1e-3, 0.1, 1, 3, 30])
def test_efla_solves_its_differential_equation(length):
    weights, write = random_write()
    key = length * torch.nn.functional.normalize(write.key, dim=-1)
    write = write._replace(key=key)
    # dW/dt = -k k W + k v, with a constant v in the last row of what is solved
    size = key.shape[-1]
    flow = torch.zeros(*key.shape[:-1], size + 1, size + 1, dtype=torch.double)
    flow[..., :size, :size] = -key.unsqueeze(-1) * key.unsqueeze(-2)
    flow[..., :size, size] = key
    start = torch.cat([weights, write.value.unsqueeze(-2)], dim=-2)
    expected = torch.linalg.matrix_exp(write.beta.unsqueeze(-1) * flow) @ start
    found = UPDATE_RULES["efla"](weights, write)
    torch.testing.assert_close(found, expected[..., :size, :], atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float, torch.double])
@pytest.mark.parametrize("length", [0, 1e-30, 1e-20, 1e-10, 1e-5, 2e-3, 0.1, 1, 1e5, 1e15])
def test_the_gradient_of_an_exact_step_is_finite_and_right_for_keys_of_any_length(dtype, length):
    key = torch.full((1, 1, 2), length * 0.5**0.5, dtype=dtype, requires_grad=True)
    beta = torch.full((1, 1, 1), 0.7, dtype=dtype, requires_grad=True)
    strength = exact_beta(Write(key, key.detach(), beta))
    to_key, to_beta = torch.autograd.grad(strength.sum(), (key, beta))
    x = 0.7 * length**2
    # the slope of (1 - exp(-x)) / x: its series where that cancels
    slope = -1 / 2 + x / 3 - x**2 / 8 if x < 1e-3 else (np.exp(-x) * (1 + x) - 1) / x**2
    torch.testing.assert_close(to_beta.item(), np.exp(-x), atol=1e-6, rtol=1e-5)
    expected = 0.7**2 * slope * 2 * key
    torch.testing.assert_close(to_key, expected.detach(), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("kernel", ["reference", "chunked", "auto"])
def test_long_keys_keep_exact_steps_bounded_and_blow_up_the_delta_rule(kernel):
    torch.manual_seed(0)
    key, value = 30 * torch.randn(1, 200, 2, 8), torch.randn(1, 200, 2, 8)
    write, starts = Write(key, value, torch.rand(1, 200, 2, 1)), torch.zeros(1, 200).bool()
    state = torch.zeros(1, 2, 8, 8)
    largest = {}
    for name in ("efla", "delta"):
        rule = UPDATE_RULES[name]
        _, end = scan(rule, state, key, write, starts, kernel=kernel)
        largest[name] = end.abs().max()
    assert largest["efla"] < 10
    assert not largest["delta"] < 1e9


def test_clipped_weights_are_never_longer_than_one():
    weights = torch.zeros(2, 3, 4, 5, dtype=torch.double)
    for seed in range(50):
        weights = UPDATE_RULES["clipped_delta"](weights, random_write(seed)[1])
    assert torch.linalg.matrix_norm(weights).max() <= 1 + 1e-12


@every_kernel
def test_a_normalised_sum_is_masked_attention(kernel):
    torch.manual_seed(0)
    key, query = (torch.rand(2, 9, 3, 4, dtype=torch.double) for _ in range(2))
    value = torch.randn(2, 9, 3, 5, dtype=torch.double)
    starts = torch.zeros(2, 9, dtype=torch.bool)
    starts[0, 4] = True
    state = torch.zeros(2, 3, 4, 6, dtype=torch.double)
    values, _ = normalised_scan(sum_rule, state, query, Write(key, value), starts, kernel=kernel)
    episode = starts.cumsum(1)
    seen = (episode[:, :, None] == episode[:, None, :]).tril()
    weight = torch.einsum("bthk,bshk->bths", query, key) * seen.unsqueeze(2)
    expected = torch.einsum("bths,bshv->bthv", weight / weight.sum(-1, keepdim=True), value)
    torch.testing.assert_close(values, expected, atol=1e-10, rtol=0)


@every_kernel
def test_the_normalised_delta_rule_equals_its_equations_step_by_step(kernel):
    torch.manual_seed(0)
    times = 21
    # many features are zero, so that some keys share nothing with the past
    key, query = (torch.randn(1, times, 1, 4, dtype=torch.double).relu() for _ in range(2))
    value, beta = torch.randn(1, times, 1, 3).double(), torch.rand(1, times, 1, 1).double()
    starts = torch.rand(1, times) < 0.2
    state = torch.zeros(1, 1, 4, 4, dtype=torch.double)
    write = Write(key, value, beta)
    rule = UPDATE_RULES["delta"]
    values, end = normalised_scan(rule, state, query, write, starts, kernel=kernel)
    weights, key_sum = np.zeros((3, 4)), np.zeros(4)
    for t in range(times):
        k, q = key[0, t, 0].numpy(), query[0, t, 0].numpy()
        if starts[0, t]:
            weights, key_sum = np.zeros((3, 4)), np.zeros(4)
        found = weights @ k / (key_sum @ k) if key_sum @ k > 0 else 0
        key_sum = key_sum + k
        error = value[0, t, 0].numpy() - found
        weights = weights + beta[0, t, 0].numpy() * np.outer(error, k)
        expected = weights @ q / (key_sum @ q) if key_sum @ q > 0 else np.zeros(3)
        np.testing.assert_allclose(values[0, t, 0], expected, atol=1e-9)
    np.testing.assert_allclose(end[0, 0, :, :3].T, weights, atol=1e-9)
    np.testing.assert_allclose(end[0, 0, :, 3], key_sum, atol=1e-9)
