"""The recall map against sums of what was really read, and against sequences made by hand."""

import pytest
import torch

from fwrl.core import Reads
from fwrl.inspection.recall_map import contributions, influence, recall_map, values_of
from fwrl.update_rules import UPDATE_RULES, ScanInputs, Write

B, T, H, K, V = 2, 9, 3, 4, 5
LINEAR = sorted(name for name, rule in UPDATE_RULES.items() if rule.linear)


def some_write(*shape, decays=K):
    key = torch.nn.functional.normalize(torch.randn(*shape, K), dim=-1).double()
    removal_key = torch.nn.functional.normalize(torch.randn(*shape, K), dim=-1).double()
    value = torch.randn(*shape, V).double()
    beta, decay, rate = (torch.rand(*shape, size).double() for size in (1, decays, K))
    return Write(key, value, beta, decay, removal_key, rate)


def some_reads(name, state=None, fresh=None, starts=None):
    write = some_write(B, T, H, decays=1 if name in ("gated_delta", "decayed_sum") else K)
    if name == "sum":
        write = Write(write.key, write.value)
    state = torch.zeros(B, H, K, V).double() if state is None else state
    starts = torch.zeros(B, T, dtype=torch.bool) if starts is None else starts
    query = torch.randn(B, T, H, K).double()
    return Reads(name, UPDATE_RULES[name], ScanInputs(state, query, write, starts, fresh))


@pytest.mark.parametrize("name", UPDATE_RULES)
def test_which_rules_are_linear(name):
    write, rule = some_write(B, H), UPDATE_RULES[name]
    first, second = torch.randn(2, B, H, K, V).double()
    # an affine function keeps the mean of two
    mean = (rule(first, write) + rule(second, write)) / 2
    linear = torch.allclose(rule((first + second) / 2, write), mean)
    assert linear == rule.linear


@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize("resets", [False, True])
def test_contributions_add_up_to_what_was_read(name, resets):
    torch.manual_seed(1)
    state = torch.randn(B, H, K, V).double()
    fresh = torch.randn(1, H, K, V).double()
    starts = torch.zeros(B, T, dtype=torch.bool)
    if resets:
        starts[0, 4] = starts[1, 0] = starts[1, 6] = True
    given = some_reads(name, state, fresh, starts)
    values = values_of(given)
    total = torch.zeros_like(values)
    for time, part in contributions(given):
        total[:, max(time, 0) :] += part
        if resets and 0 <= time < 4:
            assert not part[0, 4 - time :].any(), "a start is a border"
    torch.testing.assert_close(total, values, rtol=1e-12, atol=1e-12)
    shares, before = recall_map(given)
    assert shares.shape == (B, T, H + 1, T)
    torch.testing.assert_close(shares.sum(-1) + before, torch.ones_like(before))
    assert not shares.transpose(1, 2).triu(diagonal=1).any(), "the future gives nothing"


@pytest.mark.parametrize("name", LINEAR)
def test_a_contribution_is_what_the_read_loses_without_the_value(name):
    """The oracle: the same scan with one value left out, everything else as it was."""
    torch.manual_seed(2)
    given = some_reads(name, torch.randn(B, H, K, V).double())
    for time, part in contributions(given):
        if time < 0:
            without = given.inputs._replace(state=torch.zeros_like(given.inputs.state))
        else:
            write = given.inputs.write
            value = write.value.clone()
            value[:, time] = 0.0
            without = given.inputs._replace(write=write._replace(value=value))
        lost = values_of(given) - values_of(given._replace(inputs=without))
        torch.testing.assert_close(part, lost[:, max(time, 0) :], rtol=1e-9, atol=1e-12)
        assert not lost[:, : max(time, 0)].any()


def test_an_undefined_past_stays_behind_a_start():
    starts = torch.zeros(B, T, dtype=torch.bool)
    starts[:, 0] = True
    given = some_reads("delta", torch.full((B, H, K, V), torch.nan).double(), None, starts)
    shares, before = recall_map(given)
    assert shares.isfinite().all()
    assert not before.any()


def by_hand(keys, values, query, beta=1.0):
    """One head: keys and values, and at the end a query at a time that writes nothing."""
    times = len(keys) + 1
    key = torch.stack([*keys, torch.zeros_like(keys[0])]).view(1, times, 1, -1)
    value = torch.stack([*values, torch.zeros_like(values[0])]).view(1, times, 1, -1)
    asked = torch.zeros_like(key)
    asked[0, -1, 0] = query
    write = Write(key, value, torch.full((1, times, 1, 1), beta))
    state = torch.zeros(1, 1, key.shape[-1], value.shape[-1])
    starts = torch.zeros(1, times, dtype=torch.bool)
    inputs = ScanInputs(state, asked, write, starts)
    reads = Reads("by hand", UPDATE_RULES["delta"], inputs)
    return recall_map(reads).share[0, -1, 0]


def test_what_was_rewritten_contributes_nothing():
    one, two = torch.eye(3)[:2]
    values = torch.randn(3, 4)
    share = by_hand([one, two, one], values.unbind(), one)
    torch.testing.assert_close(share, torch.tensor([0.0, 0.0, 1.0, 0.0]))
    share = by_hand([one, two, one], values.unbind(), two)
    torch.testing.assert_close(share, torch.tensor([0.0, 1.0, 0.0, 0.0]))
    # the same value twice at half the strength: a third is of the older write
    share = by_hand([one, one], [values[0], values[0]], one, beta=0.5)
    torch.testing.assert_close(share, torch.tensor([1.0, 2.0, 0.0]) / 3)


def test_a_contribution_against_the_read_is_negative():
    one, two = torch.eye(2)
    up = torch.tensor([1.0, 0.0])
    share = by_hand([one, two], [up, -0.25 * up], one + two)
    torch.testing.assert_close(share, torch.tensor([4.0, -1.0, 0.0]) / 3)


def test_nothing_read_has_no_parts():
    one, two = torch.eye(2)
    assert not by_hand([one], [one], two).any()
    # two values that cancel but for rounding
    value = torch.randn(2)
    assert not by_hand([one, two], [value, -(value * (1 + 1e-7))], one + two).any()


def test_writes_of_one_time_count_as_one():
    torch.manual_seed(3)
    given = some_reads("delta")
    fine, coarse = recall_map(given).share, recall_map(given._replace(writes=3)).share
    assert coarse.shape == (B, 3, H + 1, 3)
    torch.testing.assert_close(coarse, fine[:, 2::3].unflatten(-1, (3, 3)).sum(-1))


def test_all_heads_are_heads_side_by_side():
    torch.manual_seed(4)
    given = some_reads("delta")
    share, _ = recall_map(given)
    weight = values_of(given).square().sum(-1, keepdim=True)
    weighted = (share[:, :, :-1] * weight).sum(2) / weight.sum(2)
    torch.testing.assert_close(share[:, :, -1], weighted)


def test_influence_of_a_function_that_is_known():
    weight = torch.rand(7, 7).tril()
    x = torch.randn(1, 7, 3)
    for at_once in (1, 14, 8192):

        def outcome(copies):
            times = copies.shape[1]
            return copies.sum(-1) @ weight[:times, :times].T

        torch.testing.assert_close(
            influence(outcome, x, at_once), weight / weight.sum(-1, keepdim=True)
        )
