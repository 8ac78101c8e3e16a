"""The gradient by hand, beyond what every kernel is tested for; and undefined inputs kept apart."""

import pytest
import torch
from kernel_parity import B, random_scan, values_and_gradients

from fwrl import UPDATE_RULES, Write, scan
from fwrl.kernels import reference
from fwrl.kernels.chunked import gradient as chunked_gradient
from fwrl.kernels.chunked import scan as chunked
from fwrl.update_rules import ScanInputs

REMOVING = sorted(
    name for name, rule in UPDATE_RULES.items() if chunked.computes(rule) and rule.form == "error"
)
every_form = pytest.mark.parametrize(
    "name", sorted(name for name, rule in UPDATE_RULES.items() if chunked.computes(rule))
)


@pytest.mark.parametrize("name", REMOVING)
@pytest.mark.parametrize("fresh_streams", [1, 3])
@pytest.mark.parametrize("block_size", [1, 700])
def test_blocks_of_streams_change_nothing(name, fresh_streams, block_size, monkeypatch):
    torch.manual_seed(0)
    leaves, starts = random_scan(name, 41, 0.1, fresh_streams=fresh_streams, sizes=(3, 2, 4, 3))
    whole = values_and_gradients(UPDATE_RULES[name], leaves, starts, "chunked")
    # a stream has 41 * 2 * 4 numbers: blocks of one stream, and of two and one
    monkeypatch.setattr(chunked_gradient, "BLOCK_SIZE", block_size)
    blocks = values_and_gradients(UPDATE_RULES[name], leaves, starts, "chunked")
    for expected, actual in zip(whole, blocks, strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("name", REMOVING)
def test_the_gradient_has_a_gradient(name):
    torch.manual_seed(0)
    leaves, starts = random_scan(name, 3, 0.4, sizes=(1, 1, 2, 1))

    def run(query, *given):
        *write, state, fresh = given
        return scan(UPDATE_RULES[name], state, query, Write(*write), starts, fresh, "chunked")

    assert torch.autograd.gradgradcheck(run, leaves)


@pytest.mark.parametrize("name", REMOVING)
def test_the_gradient_is_of_full_precision_under_autocast(name):
    leaves, starts = random_scan(name, 20, 0.1, torch.float32)
    plain = values_and_gradients(UPDATE_RULES[name], leaves, starts, "chunked")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = values_and_gradients(UPDATE_RULES[name], leaves, starts, "chunked")
    # the loss of ``everything`` is a sum of products, which autocast leaves alone
    torch.testing.assert_close(mixed, plain, atol=0, rtol=0)


def test_gradients_of_strong_decays_keep_their_digits():
    torch.manual_seed(0)
    leaves, starts = random_scan("gated_delta", 40, 0.1)
    with torch.no_grad():
        leaves[4][:, ::5] = 1e-12
    truth = values_and_gradients(UPDATE_RULES["gated_delta"], leaves, starts, "reference")
    single = [leaf.detach().float().requires_grad_() for leaf in leaves]
    fast = values_and_gradients(UPDATE_RULES["gated_delta"], single, starts, "chunked")
    # of the decay
    torch.testing.assert_close(fast[6].double(), truth[6], atol=1e-3, rtol=1e-3)


@every_form
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
@pytest.mark.parametrize("poisoned", ["query", "key", "value", "beta", "decay", "state", "fresh"])
def test_nothing_undefined_passes_a_start(name, poison, poisoned):
    """The path of a GPU, which cannot check values first; ``scan`` does not take it on a CPU."""
    torch.manual_seed(0)
    rule = UPDATE_RULES[name]
    leaves, _ = random_scan(name, 50, 0, fresh_streams=B)
    starts = torch.zeros(B, 50, dtype=torch.bool)
    starts[0, [20, 40]] = starts[1, 20] = True

    def run():
        query, *write, state, fresh = leaves
        inputs = ScanInputs(state, query, Write(*write), starts, fresh)
        return chunked_gradient.scan_apart(rule, inputs)

    clean = run()
    names = ["query", "key", "value", "beta", "decay", "removal_key", "removal_rate"]
    leaf = leaves[[*names, "state", "fresh"].index(poisoned)]
    with torch.no_grad():
        leaf[0, ..., :1] = poison if poisoned in ("state", "fresh") else leaf[0, ..., :1]
        if poisoned not in ("state", "fresh"):
            leaf[0, 10:18, :, 0] = poison
    values, end = run()
    lost = values[0].isnan().flatten(1).any(dim=1)
    times = torch.arange(50)
    expected = {
        "query": (times >= 10) & (times < 18),
        "state": times < 20,
        "fresh": times >= 20,
    }.get(poisoned, (times >= 10) & (times < 20))
    if poisoned == "decay" and rule.decay != "head":
        expected = times < 0
    if poisoned == "beta" and name == "sum":
        expected = times < 0
    # an exact step of infinite strength is a full one
    defined = poisoned == "beta" and name == "efla" and poison == torch.inf
    assert torch.equal(lost, expected & (not defined))
    keep = ~expected
    torch.testing.assert_close(values[0, keep], clean[0][0, keep])
    torch.testing.assert_close(values[1], clean[0][1])
    torch.testing.assert_close(end[1], clean[1][1])
    assert end[0].isnan().all() == (poisoned == "fresh")
    # a loss of all that is read, undefined or not
    gradients = torch.autograd.grad(
        values.square().sum() + end.square().sum(), leaves[:5], allow_unused=True
    )
    for gradient in gradients:
        if gradient is not None:
            assert gradient[0, keep].isfinite().all()
            assert gradient[1].isfinite().all()


def test_what_is_clean_stays_exactly_as_it_was():
    torch.manual_seed(0)
    leaves, starts = random_scan("gated_delta", 50, 0.1)
    query, *write, state, fresh = leaves
    given = UPDATE_RULES["gated_delta"], ScanInputs(state, query, Write(*write), starts, fresh)
    apart, plain = chunked_gradient.scan_apart(*given), chunked_gradient.scan(*given)
    torch.testing.assert_close(apart, plain, atol=0, rtol=0)
    torch.testing.assert_close(apart, reference.scan(*given))
