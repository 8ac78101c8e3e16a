"""The step of a whole stack in C equals the same step in PyTorch, and never uses older weights."""

import copy
import pickle
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fwrl import ResidualStack, StackConfig, use_kernel
from fwrl.cores.fast_weight import FastWeightConfig
from fwrl.kernels.native import library as loading
from fwrl.state import tensors_in

pytestmark = pytest.mark.skipif(loading.library().functions is None, reason=loading.library().about)

# other sizes than whole vectors; one and several layers; every rule and norm that C computes
delta = partial(FastWeightConfig, update_rule="delta")
STACKS = {
    "default": (StackConfig(width=32), delta()),
    "one head": (StackConfig(width=24), delta(heads=1)),
    "deep": (StackConfig(width=40, layers=3), delta(max_beta=2)),
    "other hidden units": (StackConfig(width=32, layers=2, feed_forward=50), delta()),
    "narrow": (StackConfig(width=4, feed_forward=1), delta(heads=2)),
    "sum": (StackConfig(width=40), FastWeightConfig(update_rule="sum", output_norm="layer")),
    "decay": (
        StackConfig(width=24, layers=2),
        FastWeightConfig(update_rule="gated_delta", output_norm="rms", max_beta=2),
    ),
    "other sizes": (
        StackConfig(width=20),
        FastWeightConfig(heads=3, key_size=5, value_size=33, update_rule="gated_delta"),
    ),
    "learned start": (StackConfig(width=32), delta(learned_initial_state=True)),
    "convolution": (
        StackConfig(width=24, layers=2),
        FastWeightConfig(heads=2, key_size=5, value_size=9, short_convolution=4),
    ),
    "convolution of the present": (StackConfig(width=32), delta(short_convolution=1)),
    "one for each layer": (
        StackConfig(width=24),
        [
            FastWeightConfig(heads=3, key_size=5, value_size=33, update_rule="gated_delta"),
            delta(heads=2, output_norm="rms", short_convolution=3),
            FastWeightConfig(update_rule="sum", output_norm="layer"),
        ],
    ),
}
every_stack = pytest.mark.parametrize("name", STACKS)
# fewer streams than a vector has lanes, some vectors, and some and a rest
STREAMS = (1, 3, 8, 17, 64)


class Case:
    """A stack with maps around it, and inputs and states of some streams."""

    def __init__(self, name="default", streams=17, features=9):
        torch.manual_seed(0)
        config, core = STACKS[name]
        self.stack = ResidualStack(config, core)
        self.before = nn.Linear(features, config.width)
        self.after = [nn.Linear(config.width, 4), nn.Linear(config.width, 1)]
        for parameter in self.stack.parameters():
            nn.init.normal_(parameter, std=0.4)
        self.x = torch.randn(streams, features)
        states = self.stack.initial_state(streams)
        self.state = tuple(type(each)(*map(torch.randn_like, each)) for each in states)

    @torch.no_grad()
    def step(self):
        return self.stack.step_between(self.before, self.x, self.state, self.after)

    def in_torch(self):
        with use_kernel("reference"):
            return self.step()

    def agrees(self):
        torch.testing.assert_close(self.step(), self.in_torch(), atol=3e-5, rtol=3e-5)


@every_stack
@pytest.mark.parametrize("streams", STREAMS)
def test_it_equals_the_step_of_torch(name, streams, variant, calls):
    case = Case(name, streams)
    case.agrees()
    assert calls == ["fwrl_residual"]


@every_stack
def test_it_equals_the_step_without_maps_around(name, calls):
    case = Case(name)
    x = torch.randn(17, case.stack.input_size)
    with torch.no_grad():
        actual = case.stack.step(x, case.state)
        with use_kernel("reference"):
            expected = case.stack.step(x, case.state)
    torch.testing.assert_close(actual, expected, atol=3e-5, rtol=3e-5)
    assert calls == ["fwrl_residual"]


@every_stack
@pytest.mark.parametrize("streams", STREAMS)
def test_a_stream_does_not_depend_on_others_or_on_threads(name, streams, variant, monkeypatch):
    monkeypatch.setattr(loading, "WORTH_A_THREAD", 1)
    case, threads = Case(name, streams), torch.get_num_threads()
    whole = tensors_in(case.step())
    try:
        torch.set_num_threads(2)
        for one, two in zip(tensors_in(case.step()), whole, strict=True):
            assert torch.equal(one, two)
    finally:
        torch.set_num_threads(threads)
    x, state = case.x, case.state
    for row in {0, streams // 2, streams - 1}:
        case.x = x[row : row + 1]
        case.state = tuple(type(e)(*(leaf[row : row + 1] for leaf in e)) for e in state)
        for one, all_rows in zip(tensors_in(case.step()), whole, strict=True):
            assert torch.equal(one[0], all_rows[row]) or not one.numel()


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_nothing_undefined_leaves_its_row(poison, variant):
    case = Case(streams=20)
    clean = tensors_in(case.step())
    case.x[3, 2] = poison
    case.state[0].weights[7, 0, 0, 0] = poison
    found = tensors_in(case.step())
    others = [row for row in range(20) if row not in (3, 7)]
    for one, two in zip(found, clean, strict=True):
        assert torch.equal(one[others], two[others])
    assert found[0][[3, 7]].isnan().all()


def test_what_is_given_is_left_as_it_was():
    case = Case()
    before = [leaf.clone() for leaf in tensors_in((case.x, case.state))]
    _, after = case.step()
    for leaf, expected in zip(tensors_in((case.x, case.state)), before, strict=True):
        assert torch.equal(leaf, expected)
    assert not torch.equal(after[0].weights, case.state[0].weights)


def test_inputs_and_states_may_have_gaps(calls):
    case = Case(streams=8)
    expected = case.step()
    case.x = torch.cat([case.x, case.x], dim=1)[:, :9]
    gaps = case.state[0].weights.transpose(2, 3).contiguous().transpose(2, 3)
    case.state = (case.state[0]._replace(weights=gaps),)
    for one, two in zip(tensors_in(case.step()), tensors_in(expected), strict=True):
        assert torch.equal(one, two)
    assert calls == ["fwrl_residual"] * 2


@every_stack
@torch.no_grad()
def test_a_state_may_be_overwritten(name, variant):
    case = Case(name)
    expected = case.step()
    given = [each.weights for each in case.state]
    found = case.stack.step_between(case.before, case.x, case.state, case.after, overwrite=True)
    for one, two in zip(tensors_in(found), tensors_in(expected), strict=True):
        assert torch.equal(one, two)
    for before, after in zip(given, found[1], strict=True):
        assert before.data_ptr() == after.weights.data_ptr()


def optimise(case):
    optimizer = torch.optim.Adam(case.stack.parameters(), 0.1)
    x = torch.randn(17, case.stack.input_size)
    case.stack.step(x, case.state)[0].square().sum().backward()
    optimizer.step()


def load(case, assign):
    other = ResidualStack(*STACKS["default"])
    case.stack.load_state_dict(other.state_dict(), assign=assign)


def add_in_place(case):
    with torch.no_grad():
        for parameter in case.stack.parameters():
            parameter.add_(0.1)


def write_data(case):
    for parameter in case.stack.parameters():
        parameter.data.mul_(1.5)


def replace_data(case):
    for parameter in case.stack.parameters():
        parameter.data = torch.randn_like(parameter)


def write_by_numpy(case):
    for parameter in case.stack.parameters():
        parameter.detach().numpy()[:] += 0.1


def replace_parameter(case):
    case.stack.blocks[0].core.output.weight = nn.Parameter(torch.randn(32, 32))


def replace_module(case):
    case.stack.blocks[0].feed_forward[1] = nn.Linear(32, 64)


def replace_map(case):
    case.after[1] = nn.Linear(32, 1)


def cast_there_and_back(case):
    case.stack.double()
    for parameter in case.stack.parameters():
        parameter.data.mul_(1.5)
    case.stack.float()


CHANGES = {
    "optimiser": optimise,
    "load_state_dict": lambda case: load(case, assign=False),
    "load_state_dict, assigned": lambda case: load(case, assign=True),
    "in place": add_in_place,
    "data in place": write_data,
    "data replaced": replace_data,
    "numpy": write_by_numpy,
    "parameter": replace_parameter,
    "module": replace_module,
    "map": replace_map,
    "cast": cast_there_and_back,
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_of_weights_counts_at_the_next_step(change, calls):
    case = Case()
    for _ in range(2):
        before = case.step()[0]
        CHANGES[change](case)
        # the change itself may learn
        calls.clear()
        assert not torch.equal(case.step()[0][0], before[0]) or change == "map"
        case.agrees()
        assert set(calls) == {"fwrl_residual"}


def with_hook(case):
    case.stack.blocks[0].feed_forward.register_forward_hook(lambda *_: torch.zeros(17, 32))


def with_another_activation(case):
    case.stack.blocks[0].feed_forward[2] = nn.Sequential(nn.ReLU(), nn.Dropout(0.0))


def with_another_gelu(case):
    case.stack.blocks[0].feed_forward[2][0] = nn.GELU(approximate="tanh")


def with_more(case):
    case.stack.blocks[0].feed_forward.append(nn.ReLU())


def with_parametrisation(case):
    class Doubled(nn.Module):
        def forward(self, x):
            return 2 * x

    nn.utils.parametrize.register_parametrization(
        case.stack.blocks[0].core.project, "weight", Doubled()
    )


def with_a_subclass(case):
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    case.stack.blocks[0].core.output = Doubled(32, 32, bias=False)


OTHERS = {
    "hook": with_hook,
    "activation": with_another_activation,
    "GELU": with_another_gelu,
    "more modules": with_more,
    "parametrisation": with_parametrisation,
    "subclass": with_a_subclass,
}


@pytest.mark.parametrize("other", OTHERS)
def test_what_c_does_not_compute_runs_in_torch(other, calls):
    case = Case()
    before = case.step()[0][0]
    OTHERS[other](case)
    after = case.step()[0][0]
    assert not torch.equal(before, after)
    assert torch.equal(after, case.step()[0][0])
    assert calls.count("fwrl_residual") == 1


def test_gradients_autocast_and_float64_run_in_torch(calls):
    case = Case()
    case.stack.step_between(case.before, case.x, case.state, case.after)[0][0].sum().backward()
    assert case.stack.blocks[0].core.project.weight.grad.any()
    with torch.autocast("cpu", torch.bfloat16):
        case.step()
    case.x = case.x.double()
    for module in (case.stack, case.before, *case.after):
        module.double()
    assert case.step()[0][0].dtype == torch.float64
    assert "fwrl_residual" not in calls


@torch.no_grad()
def test_shapes_that_do_not_fit_are_told_by_torch():
    case = Case()
    case.step()
    case.x = case.x[:, :5]
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        case.step()


def test_dropout_is_active_in_training_alone(calls):
    torch.manual_seed(0)
    stack = ResidualStack(StackConfig(width=32), delta(), dropout=0.5)
    x, state = torch.randn(8, 32), stack.initial_state(8)
    with torch.no_grad():
        first, second = (stack.step(x, state)[0] for _ in range(2))
        assert not torch.equal(first, second)
        assert "fwrl_residual" not in calls
        stack.eval()
        assert torch.equal(stack.step(x, state)[0], stack.step(x, state)[0])
        assert calls.count("fwrl_residual") == 2


def test_a_stack_that_has_stepped_can_be_copied_and_pickled():
    case = Case()
    names = list(case.stack.state_dict())
    expected = case.step()[0][0]
    assert list(case.stack.state_dict()) == names
    original = case.stack
    pickled = pickle.loads(pickle.dumps(original))  # noqa: S301
    for other in (copy.deepcopy(original), pickled):
        case.stack = other
        assert torch.equal(case.step()[0][0], expected)
        add_in_place(case)
        assert not torch.equal(case.step()[0][0], expected)
        case.stack = original
        assert torch.equal(case.step()[0][0], expected)


@torch.no_grad()
def test_gelu_is_that_of_torch(variant):
    stack = ResidualStack(StackConfig(width=64, feed_forward=64), delta())
    numbers = torch.linspace(-7, 7, 64)
    _, widen, _, narrow = stack.blocks[0].feed_forward
    for parameter in (*stack.blocks.parameters(), stack.norm.bias):
        parameter.zero_()
    # the bias alone reaches the activation, and the activation alone the norm
    widen.bias.copy_(numbers)
    narrow.weight.copy_(torch.eye(64))
    actual, _ = stack.step(torch.zeros(1, 64), stack.initial_state(1))
    expected = F.layer_norm(F.gelu(numbers), (64,))
    torch.testing.assert_close(actual[0], expected, atol=2e-6, rtol=0)
