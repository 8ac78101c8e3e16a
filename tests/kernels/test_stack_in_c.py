"""Learning with a stack whose parts between products are in C equals that in PyTorch."""

from functools import partial

import pytest
import torch
from torch import nn

from fwrl import ResidualStack, StackConfig, use_kernel
from fwrl.cores.fast_weight import FastWeightConfig
from fwrl.cores.gru import GRUConfig
from fwrl.cores.none import NoMemoryConfig
from fwrl.kernels.native import library as loading
from fwrl.state import map_tensors, tensors_in

pytestmark = pytest.mark.skipif(loading.library().functions is None, reason=loading.library().about)

# other sizes than whole vectors; one and several layers; several memories
delta = partial(FastWeightConfig, update_rule="delta")
STACKS = {
    "default": (StackConfig(width=32), delta()),
    "deep": (StackConfig(width=40, layers=3), delta(max_beta=2)),
    "other hidden units": (StackConfig(width=32, layers=2, feed_forward=50), delta()),
    "narrow": (StackConfig(width=4, feed_forward=1), delta(heads=2)),
    "sum": (StackConfig(width=40), delta(update_rule="sum")),
    "other sizes": (StackConfig(width=20), delta(heads=3, key_size=5, value_size=33)),
    "learned start": (
        StackConfig(width=32, layers=2),
        delta(learned_initial_state=True),
    ),
    "one for each layer": (
        StackConfig(width=24),
        [
            delta(heads=3, key_size=5, value_size=33, learned_initial_state=True),
            delta(heads=2, max_beta=2),
            delta(update_rule="sum"),
        ],
    ),
    "decay": (StackConfig(width=24), delta(update_rule="gated_delta")),
    "convolution": (StackConfig(width=24), delta(short_convolution=4)),
    "normed reads": (StackConfig(width=24), delta(output_norm="rms")),
    "feature map": (StackConfig(width=24), delta(feature_map="elu_plus_one")),
    "GRU": (StackConfig(width=24, layers=2), GRUConfig()),
    "resized": (StackConfig(width=24), GRUConfig(hidden_size=20)),
    "no memory": (StackConfig(width=24), NoMemoryConfig()),
}
# of these only the memory is in C
OTHERS = {
    "gates": (StackConfig(width=24, gate=True), delta()),
    "bare": (StackConfig(width=24, bare=True), delta()),
}
every_stack = pytest.mark.parametrize("name", STACKS)


class Case:
    """A stack, and sequences with starts and states that have gradients."""

    def __init__(self, name="default", streams=3, times=50):
        torch.manual_seed(0)
        config, core = {**STACKS, **OTHERS}[name]
        self.stack = ResidualStack(config, core)
        for parameter in self.stack.parameters():
            nn.init.normal_(parameter, std=0.4)
        self.x = torch.randn(streams, times, config.width, requires_grad=True)
        self.starts = torch.rand(streams, times) < 0.1
        states = self.stack.initial_state(streams)
        self.state = map_tensors(partial(torch.randn_like, requires_grad=True), states)

    def outputs(self):
        y, state = self.stack.unroll(self.x, self.state, self.starts)
        return [y, *filter(torch.numel, tensors_in(state))]

    def results(self):
        """Outputs, and the gradients of all that has one."""
        outputs = self.outputs()
        generator = torch.Generator().manual_seed(1)
        weights = [torch.randn(each.shape, generator=generator) for each in outputs]
        loss = sum((one * two).sum() for one, two in zip(outputs, weights, strict=True))
        leaves = [self.x, *filter(torch.numel, tensors_in(self.state)), *self.stack.parameters()]
        found = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
        return [each.detach() for each in outputs], found

    def in_torch(self):
        with use_kernel("reference"):
            return self.results()


@every_stack
def test_outputs_and_gradients_equal_those_of_torch(name, variant, calls):
    case = Case(name)
    actual, expected = case.results(), case.in_torch()
    for one, two in zip([*actual[0], *actual[1]], [*expected[0], *expected[1]], strict=True):
        scale = float(two.abs().max()) or 1.0
        torch.testing.assert_close(one / scale, two / scale, atol=2e-5, rtol=0)
    layers = len(case.stack.blocks)
    assert calls.count("fwrl_sum_norm_backward") == 2 * layers + 1
    assert calls.count("fwrl_bias_gelu_forward") == layers


@pytest.mark.parametrize("name", OTHERS)
def test_other_stacks_are_left_to_torch(name, calls):
    Case(name).results()
    assert "fwrl_sum_norm_forward" not in calls


@pytest.mark.parametrize("change", ["hook", "dropout", "bias", "shift", "bfloat16", "float64"])
def test_other_computations_are_left_to_torch(change, calls):
    case = Case("default")
    block = case.stack.blocks[0]
    if change == "hook":
        block.core_norm.register_forward_hook(lambda *_: None)
    elif change == "dropout":
        block.dropout.p = 0.5
    elif change == "bias":
        block.feed_forward[1].bias = None
    elif change == "shift":
        case.stack.norm.bias = None
    elif change == "float64":
        case.stack, case.x = case.stack.double(), case.x.double()
    with torch.autocast("cpu", torch.bfloat16, enabled=change == "bfloat16"):
        case.outputs()
    assert "fwrl_sum_norm_forward" not in calls


def left_out(_, y, state):
    """In place of a memory."""
    return y, state


@pytest.mark.parametrize("change", ["width", "norm", "float64 parameters"])
def test_what_torch_refuses_does_not_reach_c(change, calls):
    case = Case()
    if change == "width":
        case.x = case.x[..., :-1]
    elif change == "norm":
        case.stack.norm = nn.LayerNorm(case.stack.input_size + 1)
    else:
        case.stack.double()
    with pytest.raises(RuntimeError):
        case.stack.through(case.x, case.state, left_out)
    assert not calls


def test_a_memory_may_return_another_precision():
    case = Case()

    def precise(_, y, state):
        return y.double(), state

    y, _ = case.stack.through(case.x, case.state, precise)
    with use_kernel("reference"):
        expected, _ = case.stack.through(case.x, case.state, left_out)
    torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-5)


def test_threads_change_nothing(monkeypatch):
    monkeypatch.setattr(loading, "WORTH_A_THREAD", 1)
    found, threads = [], torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(Case("deep", streams=7).outputs())
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_nothing_undefined_leaves_its_stream(poison, variant):
    clean = Case().outputs()
    case = Case()
    with torch.no_grad():
        case.x[1, 7, 3] = poison
    found = case.outputs()
    for one, two in zip(found, clean, strict=True):
        assert torch.equal(one[[0, 2]], two[[0, 2]])
    assert torch.equal(found[0][1, :7], clean[0][1, :7])
    assert found[0][1, 7].isnan().all()


def test_what_is_given_is_left_as_it_was():
    case = Case("deep")
    given = [case.x, *tensors_in(case.state)]
    before = [each.detach().clone() for each in given]
    outputs = case.outputs()
    gradients = [torch.randn_like(each) for each in outputs]
    copies = [each.clone() for each in gradients]
    torch.autograd.backward(outputs, gradients)
    assert all(map(torch.equal, gradients, copies))
    assert all(map(torch.equal, before, given))


def test_an_output_that_nothing_uses_has_no_gradient():
    for used in (0, 1):
        case, other = Case(), Case()
        case.outputs()[used].sum().backward()
        with use_kernel("reference"):
            other.outputs()[used].sum().backward()
        torch.testing.assert_close(case.x.grad, other.x.grad, atol=3e-4, rtol=3e-4)


def test_a_parameter_changed_in_between_is_noticed():
    case = Case()
    y = case.outputs()[0]
    with torch.no_grad():
        case.stack.blocks[0].core.output.weight.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
