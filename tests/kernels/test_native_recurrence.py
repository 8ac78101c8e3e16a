"""The strictly sequential cores in C: every variant equals the loop of torch."""

from functools import cache

import pytest
import torch

from fwrl.cores import CORES
from fwrl.kernels import use_kernel
from fwrl.kernels.native import library as loading
from fwrl.state import map_tensors, tensors_in

pytestmark = pytest.mark.skipif(loading.library().functions is None, reason=loading.library().about)

KINDS = ["delta_lstm", "delta_rnn", "recurrent_delta", "self_referential"]
KINDS += ["fast_weight_memory", "gru", "lstm", "slow_rnn"]
every_kind = pytest.mark.parametrize("kind", KINDS)
# sizes of heads: whole vectors of every width; less than one; some and a rest
SIZES = [32, 3, 16, 17, 40, 80]


def settings(kind, size):
    if kind == "fast_weight_memory":
        # a memory grows with the third power; strong writes, so that it is clipped now and then
        return {"memory_size": min(size, 33), "scale_write": False}
    return {} if kind in ("gru", "lstm") else {"heads": 2}


def problem(kind, size, times, streams=3, **others):
    """A core with a past, and what it reads; large enough for every squashing to bend."""
    torch.manual_seed(size + times)
    core = CORES[kind](**settings(kind, size) | others).build(2 * size)
    if kind == "fast_weight_memory":
        # reads stay nearer to what is added to their variance, which damps what rounding becomes
        for parameter in core.question.parameters():
            parameter.data.mul_(0.3)
    x = torch.randn(streams, times, 2 * size, requires_grad=True)
    starts = torch.rand(streams, times) < 0.1
    return core, x, starts, grown(core.initial_state(streams))


def grown(state):
    """The state of some past."""
    return map_tensors(lambda leaf: (0.5 * torch.randn_like(leaf)).requires_grad_(), state)


def everything(core, x, starts, state, kernel):
    """Outputs, the last state, and the gradients of all that has one."""
    with use_kernel(kernel):
        y, end = core.unroll(x, state, starts)
    results = [y, *tensors_in(end)]
    torch.manual_seed(0)
    loss = sum((leaf * torch.randn_like(leaf)).sum() for leaf in results)
    leaves = [x, *tensors_in(state), *core.parameters()]
    return [*results, *torch.autograd.grad(loss, leaves)]


def assert_equal(problem, expected=None):
    expected = everything(*problem, "reference") if expected is None else expected
    for fast, truth in zip(everything(*problem, "native"), expected, strict=True):
        # some states are small differences of larger numbers
        atol = 1e-6 + 2e-5 * truth.abs().max().item()
        torch.testing.assert_close(fast, truth, atol=atol, rtol=1e-4)


@cache
def looped(kind, size, times, streams=3, **others):
    """The results of a problem by PyTorch, the same for all variants of the library."""
    results = everything(*problem(kind, size, times, streams, **others), "reference")
    return [leaf.detach() for leaf in results]


@pytest.mark.unchecked
@every_kind
@pytest.mark.parametrize("size", SIZES)
def test_it_equals_the_loop_for_any_size(kind, size, variant):
    assert_equal(problem(kind, size, 21), looped(kind, size, 21))


@pytest.mark.unchecked
@every_kind
@pytest.mark.parametrize("times", [1, 2, 15, 16, 17, 63, 64, 65, 257])
def test_it_equals_the_loop_for_any_length(kind, times):
    assert_equal(problem(kind, 8, times))


@pytest.mark.unchecked
@every_kind
@pytest.mark.parametrize("streams", [1, 2, 7, 9])
def test_it_equals_the_loop_for_any_number_of_streams(kind, streams, variant):
    assert_equal(problem(kind, 12, 9, streams), looped(kind, 12, 9, streams))


@every_kind
def test_inputs_may_lie_anywhere(kind):
    core, x, starts, state = problem(kind, 8, 20)
    expected = everything(core, x, starts, state, "native")
    state = map_tensors(scattered, state)
    given = (scattered(x), starts.t().contiguous().t(), state)
    assert not any(leaf.is_contiguous() for leaf in (*given[:2], *tensors_in(state)))
    for fast, truth in zip(everything(core, *given, "native"), expected, strict=True):
        torch.testing.assert_close(fast, truth, atol=1e-5, rtol=1e-4)


def scattered(leaf):
    """Every second number of something larger."""
    return torch.stack([leaf.detach()] * 2, dim=-1)[..., 0].requires_grad_()


@pytest.mark.parametrize(
    "settings",
    [
        {"scale_write": True},
        {"read_tanh": "edges", "residual": False, "forget_bias": 1.0},
        {"read_tanh": "all", "reads": 1},
        {"reads": 5, "hidden_size": 7},
    ],
)
def test_every_setting_of_a_fast_weight_memory(settings):
    assert_equal(problem("fast_weight_memory", 6, 40, **settings))


@pytest.mark.parametrize("hidden_size", [1, 31, 32, 33, 100])
def test_hidden_units_that_fill_no_panel(hidden_size, variant):
    assert_equal(problem("lstm", 9, 12, streams=11, hidden_size=hidden_size, forget_bias=0.5))
    assert_equal(problem("gru", 9, 12, streams=11, hidden_size=hidden_size))


@every_kind
@pytest.mark.parametrize("density", [0, 1])
def test_every_time_or_none_may_start(kind, density):
    core, x, starts, state = problem(kind, 8, 20)
    assert_equal((core, x, torch.full_like(starts, density), state))


@every_kind
def test_acting_equals_the_step_of_torch(kind, variant):
    core, x, _, state = problem(kind, 24, 1)
    with use_kernel("reference"):
        expected, expected_end = core.step(x[:, 0], state)
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            y, end = core.step(x[:, 0], state)
        torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-4)
        for fast, truth in zip(tensors_in(end), tensors_in(expected_end), strict=True):
            torch.testing.assert_close(fast, truth, atol=1e-5, rtol=1e-4)


@every_kind
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_nothing_undefined_passes_a_start(kind, poison):
    core, x, starts, state = problem(kind, 16, 40)
    starts = torch.zeros_like(starts)
    starts[:, 20] = True
    clean, _ = core.unroll(x, state, starts)
    with torch.no_grad():
        x[:, 7:20] = poison
    y, end = core.unroll(x, state, starts)
    torch.testing.assert_close(y[:, 20:], clean[:, 20:], rtol=0, atol=0)
    (y[:, 20:].sum() + sum(leaf.sum() for leaf in tensors_in(end))).backward()
    assert x.grad[:, 20:].isfinite().all()
    assert y[:, 7:20].isnan().all()


@every_kind
@pytest.mark.parametrize("used", ["outputs", "state"])
def test_gradients_of_the_outputs_or_of_the_state_alone(kind, used):
    core, x, starts, state = problem(kind, 8, 20)
    gradients = []
    for kernel in ("reference", "native"):
        with use_kernel(kernel):
            y, end = core.unroll(x, state, starts)
        # of the state only what was written last
        loss = y.sum() if used == "outputs" else tensors_in(end)[-2:][0].square().sum()
        leaves = [x, *tensors_in(state)]
        gradients.append(torch.autograd.grad(loss, leaves, materialize_grads=True))
    # sums in another order: 2.4e-5 apart on processors with other instructions
    for truth, fast in zip(*gradients, strict=True):
        torch.testing.assert_close(fast, truth, atol=5e-5, rtol=5e-4)


@every_kind
def test_the_state_is_left_as_it_was(kind):
    core, x, starts, state = problem(kind, 8, 20)
    before = map_tensors(lambda leaf: leaf.detach().clone(), state)
    everything(core, x, starts, state, "native")
    with torch.no_grad():
        core.step(x[:, 0], state)
    for leaf, expected in zip(tensors_in(state), tensors_in(before), strict=True):
        torch.testing.assert_close(leaf.detach(), expected, atol=0, rtol=0)


@every_kind
def test_the_number_of_threads_changes_nothing(kind, monkeypatch):
    monkeypatch.setattr(loading, "WORTH_A_THREAD", 1)
    given = problem(kind, 16, 20)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(everything(*given, "native"))
    finally:
        torch.set_num_threads(before)
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two, atol=1e-6, rtol=1e-5)


@every_kind
def test_the_loop_serves_what_the_library_does_not(kind, monkeypatch):
    def unexpected(*_):
        raise AssertionError("the library was called")

    core, x, starts, state = problem(kind, 8, 5)
    names = ("recurrent_delta", "fast_recurrence", "fast_weight_memory", "gru", "lstm")
    for name in (*names, "self_referential"):
        monkeypatch.setattr(loading.library().functions, f"fwrl_{name}_forward", unexpected)
    with pytest.raises(AssertionError, match="was called"):
        core.unroll(x, state, starts)
    with use_kernel("reference"):
        core.unroll(x, state, starts)
    core, x, state = core.double(), x.double(), map_tensors(torch.Tensor.double, state)
    assert core.unroll(x, state, starts)[0].dtype == torch.float64


@every_kind
def test_without_the_library_all_goes_on(kind, monkeypatch):
    given = problem(kind, 8, 20)
    expected = everything(*given, "native")
    monkeypatch.setattr(loading, "FOLDER", loading.FOLDER / "nowhere")
    loading.library.cache_clear()
    try:
        core, x, starts, state = given
        y, end = core.unroll(x, state, starts)
        core.step(x[:, 0], state)
    finally:
        loading.library.cache_clear()
    for leaf, truth in zip([y, *tensors_in(end)], expected, strict=False):
        torch.testing.assert_close(leaf, truth, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("kind", "version"), [("delta_rnn", 1), ("delta_lstm", 2)])
def test_other_versions_are_looped(kind, version):
    torch.manual_seed(0)
    core = CORES[kind](heads=2, version=version).build(16)
    x, starts, state = torch.randn(2, 9, 16), torch.rand(2, 9) < 0.2, core.initial_state(2)
    assert_equal((core, x.requires_grad_(), starts, grown(state)))


def given(*shapes):
    torch.manual_seed(0)
    return [torch.randn(shape, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize(
    ("operator", "tensors"),
    [
        ("recurrent_delta", given((2, 20, 2, 13), (2, 4, 13), (2, 2, 4, 4), (2, 2, 4))),
        ("fast_weight_memory", given((2, 20, 3, 4), (2, 20, 1), (2, 20, 3, 4), (2, 16, 4))),
        ("gru", given((2, 20, 9), (9, 3), (9,), (2, 3))),
        ("lstm", given((2, 20, 12), (12, 3), (2, 3), (2, 3))),
        ("self_referential", given((2, 20, 2, 4), (2, 2, 4, 16), (2, 4, 16))),
        (
            "fast_recurrence",
            given(*[(2, 20, 6, 4)] * 3, (2, 20, 6, 1), (2, 6, 4, 4), *[(2, 2, 4)] * 2),
        ),
        (
            "fast_recurrence",
            [*given(*[(2, 20, 2, 4)] * 3, (2, 20, 2, 1), (2, 2, 4, 4), (2, 2, 4)), None],
        ),
    ],
)
def test_the_operators_keep_the_rules_of_torch(operator, tensors):
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    starts = torch.rand(2, 20) < 0.1
    # of the LSTM also the bias of its forget gate
    inputs = (*tensors, starts, *([1.0] if operator == "lstm" else []), True)
    torch.library.opcheck(getattr(torch.ops.fwrl, operator), inputs, test_utils=checks)
