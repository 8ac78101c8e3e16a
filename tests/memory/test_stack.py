import subprocess
import sys

import pytest
import torch
from pydantic import ValidationError

from fwrl import CORES, ResidualStack, StackConfig, state_size, tensors_in, unroll_by_steps
from fwrl.state import where_state

B, T, D = 3, 12, 16
STACKS = {
    "plain": StackConfig(width=D),
    "deep": StackConfig(width=D, layers=3, feed_forward=8),
    "gated": StackConfig(width=D, layers=2, gate=True),
    "bare": StackConfig(width=D, layers=2, bare=True),
}

every_stack = pytest.mark.parametrize("name", STACKS)
every_core = pytest.mark.parametrize("core", sorted(CORES))


def make(name, core="fast_weight"):
    torch.manual_seed(0)
    stack = ResidualStack(STACKS[name], CORES[core]())
    return stack, torch.randn(B, T, D), torch.rand(B, T) < 0.2


@every_stack
@every_core
def test_a_stack_is_a_memory_core(name, core):
    stack, x, starts = make(name, core)
    y, end = stack.unroll(x, stack.initial_state(B), starts)
    y_steps, end_steps = unroll_by_steps(stack, x, stack.initial_state(B), starts)
    assert y.shape == (B, T, stack.output_size)
    torch.testing.assert_close(y, y_steps, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(tensors_in(end), tensors_in(end_steps), atol=1e-5, rtol=1e-4)


@every_stack
def test_its_state_is_that_of_its_layers(name):
    stack, _, _ = make(name)
    states = stack.initial_state(B)
    assert len(states) == STACKS[name].layers
    assert state_size(stack) == STACKS[name].layers * state_size(stack.blocks[0].core)
    starts = torch.tensor([True, False, True])
    assert len(where_state(starts, stack.initial_state(B), states)) == len(states)


@every_stack
def test_every_parameter_learns(name):
    stack, x, starts = make(name)
    y, _ = stack.unroll(x, stack.initial_state(B), starts)
    (y * torch.randn_like(y)).sum().backward()
    for parameter_name, parameter in stack.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.any(), parameter_name


def test_a_core_of_another_width_is_brought_back_to_the_stream():
    stack = ResidualStack(StackConfig(width=D), CORES["lstm"](hidden_size=10))
    starts = torch.zeros(B, T, dtype=torch.bool)
    y, (state,) = stack.unroll(torch.randn(B, T, D), stack.initial_state(B), starts)
    assert y.shape == (B, T, D)
    assert state.hidden.shape == (B, 10)


def test_a_bare_stack_is_its_cores_and_nothing_else():
    core = CORES["lstm"](hidden_size=10)
    stack = ResidualStack(StackConfig(width=D, layers=2, bare=True), core)
    x, starts = torch.randn(B, T, D), torch.rand(B, T) < 0.2
    y, (first, second) = stack.unroll(x, stack.initial_state(B), starts)
    one, two = (block.core for block in stack.blocks)
    assert (one.input_size, two.input_size, stack.output_size) == (D, 10, 10)
    between, after_one = one.unroll(x, one.initial_state(B), starts)
    expected, after_two = two.unroll(between, two.initial_state(B), starts)
    assert torch.equal(y, expected)
    assert torch.equal(first.cell, after_one.cell)
    assert torch.equal(second.cell, after_two.cell)
    inside = sum(p.numel() for core in (one, two) for p in core.parameters())
    assert sum(p.numel() for p in stack.parameters()) == inside


@pytest.mark.parametrize(("name", "value"), [("gate", True), ("feed_forward", 4)])
def test_a_bare_stack_has_no_place_for_what_stands_around_a_core(name, value):
    with pytest.raises(ValidationError, match=f"bare is true, .* no place for {name}; leave one"):
        StackConfig(bare=True, **{name: value})


def test_a_gate_begins_almost_closed():
    torch.manual_seed(0)
    closed, open_ = (ResidualStack(StackConfig(width=D, gate=g), CORES["none"]()) for g in (1, 0))
    x = torch.randn(B, D)
    gate = closed.blocks[0].join_core
    y = torch.randn(B, D)
    assert (gate(x, y) - x).norm() < 0.4 * y.norm()
    torch.testing.assert_close(open_.blocks[0].join_core(x, y), x + y)


def test_numbers_in_a_stack_keep_their_size():
    stack, x, starts = make("deep")
    y, _ = stack.unroll(1000 * x, stack.initial_state(B), starts)
    torch.testing.assert_close(y.square().mean(-1), torch.ones(B, T), atol=1e-2, rtol=0)


def test_importing_the_library_imports_no_environment_and_no_dashboard():
    program = "import sys, fwrl; print(*sys.modules)"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    imported = set(answer.stdout.decode().split())
    assert not imported & {"gymnasium", "yaml", "typer", "rich", "matplotlib", "tensorboard"}


@pytest.mark.parametrize("silent", ["memory", "feed_forward", "neither"])
def test_dropout_is_of_both_parts_of_a_layer_and_of_hidden_units(silent):
    torch.manual_seed(0)
    stack = ResidualStack(STACKS["plain"], CORES["fast_weight"](), dropout=0.5)
    (block,) = stack.blocks
    rests = [block.feed_forward[-1]] if silent != "memory" else [block.core.output]
    for rest in rests if silent != "neither" else []:
        torch.nn.init.zeros_(rest.weight)
        if rest.bias is not None:
            torch.nn.init.zeros_(rest.bias)
    x, starts = torch.randn(B, T, D), torch.zeros(B, T, dtype=torch.bool)

    def output():
        return stack.unroll(x, stack.initial_state(B), starts)[0]

    assert not torch.equal(output(), output())
    hidden = block.feed_forward[2](torch.ones(1, 1000))
    assert 0.4 < (hidden == 0).float().mean() < 0.6
    stack.eval()
    assert torch.equal(output(), output())
