import numpy as np
import pytest
import torch

from fwrl.kernels import scan
from fwrl.kernels.normalised import normalised_scan
from fwrl.update_rules import UPDATE_RULES, Write, read, sum_rule

every_rule = pytest.mark.parametrize("name", sorted(UPDATE_RULES))
every_kernel = pytest.mark.parametrize("kernel", ["reference", "chunked"])

KEYS = [(0.6, 0.4), (0.6, 0.4), (0.2, 0.8)]
VALUES = [(1, 0), (0, 1), (1, 1)]
BETA = [0.5, 1, 0.8]
DECAY = [0.9, 0.5, 0.8]
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
}


def doubles(numbers):
    return torch.tensor(numbers, dtype=torch.double)


def worked_example(unit=False, factor=1):
    key, query = doubles(KEYS), doubles([QUERY] * 3)
    if unit:
        key, query = (x / x.norm(dim=-1, keepdim=True) for x in (key, query))
    # one stream, one head
    key, query, value = (x[None, :, None] for x in (key, query, doubles(VALUES)))
    beta, decay = (doubles(x)[None, :, None, None] for x in (BETA, DECAY))
    return query, Write(key, value, factor * beta, decay)


@every_kernel
@pytest.mark.parametrize("case", GOLDEN)
def test_rules_are_the_worked_example(case, kernel):
    name, unit, factor, weights, values = GOLDEN[case]
    query, write = worked_example(unit, factor)
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


def random_write(seed=0, batch=2, heads=3, key_size=4, value_size=5):
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(*shape, dtype=torch.double, generator=generator)

    weights = random(batch, heads, key_size, value_size)
    key, value = random(batch, heads, key_size), random(batch, heads, value_size)
    beta, decay = random(batch, heads, 1).sigmoid(), random(batch, heads, 1).sigmoid()
    return weights, Write(key, value, beta, decay)


def numpy_rule(name, weights, key, value, beta, decay):
    """One rule, one matrix, one entry after another; values are the rows, as in the papers."""
    new = weights.copy()
    if name == "gated_sum":
        new *= 1 - beta
    if name in ("decayed_sum", "gated_delta"):
        new *= decay
    stored = new @ key
    for row in range(len(value)):
        for column in range(len(key)):
            match name:
                case "sum":
                    new[row, column] += value[row] * key[column]
                case "gated_sum" | "decayed_sum":
                    new[row, column] += beta * value[row] * key[column]
                case _:
                    new[row, column] += beta * (value[row] - stored[row]) * key[column]
    return new


@every_rule
def test_rules_equal_a_loop_over_entries(name):
    weights, write = random_write()
    new = UPDATE_RULES[name](weights, write).numpy()
    for b, h in np.ndindex(new.shape[:2]):
        key, value, beta, decay = (field[b, h].numpy() for field in write)
        expected = numpy_rule(name, weights[b, h].numpy().T, key, value, beta[0], decay[0])
        np.testing.assert_allclose(new[b, h].T, expected, rtol=0, atol=1e-12)


@every_rule
def test_gradients_of_each_rule(name):
    weights, write = random_write(batch=1, heads=2, key_size=3, value_size=2)
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
