"""Stacks with another memory in each layer keep the contract of all memories."""

import pytest
import torch
from mixed_stacks import MIXES

from fwrl import CORES, ResidualStack, StackConfig, state_size, tensors_in, unroll_by_steps
from fwrl.bench.lm.model import LanguageModel, LanguageModelConfig
from fwrl.bench.sequence_model import SequenceModel
from fwrl.config import ConfigError

B, T, D = 3, 12, 16
AROUND = {
    "plain": StackConfig(width=D),
    "gated": StackConfig(width=D, gate=True),
    "bare": StackConfig(width=D, bare=True),
}
every_mix = pytest.mark.parametrize("name", MIXES)
every_stack = pytest.mark.parametrize("around", AROUND)


def make(name, around):
    torch.manual_seed(0)
    stack = ResidualStack(AROUND[around], MIXES[name])
    return stack, torch.randn(B, T, D), torch.rand(B, T) < 0.2


@every_mix
@every_stack
def test_a_sequence_is_its_steps_however_it_is_cut(name, around):
    stack, x, starts = make(name, around)
    y_steps, end_steps = unroll_by_steps(stack, x, stack.initial_state(B), starts)
    state, parts = stack.initial_state(B), []
    for piece in (slice(0, 5), slice(5, 6), slice(6, T)):
        y, state = stack.unroll(x[:, piece], state, starts[:, piece])
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts, 1), y_steps, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(tensors_in(state), tensors_in(end_steps), atol=1e-5, rtol=1e-4)
    # without gradients steps may be made in C
    with torch.no_grad():
        y_steps, _ = unroll_by_steps(stack, x, stack.initial_state(B), starts)
    torch.testing.assert_close(torch.cat(parts, 1), y_steps, atol=1e-5, rtol=1e-4)


@every_mix
@every_stack
def test_each_layer_has_its_memory_and_its_state(name, around):
    stack, x, starts = make(name, around)
    alone = [type(config.build(D)) for config in MIXES[name]]
    assert [type(block.core) for block in stack.blocks] == alone
    assert len(stack.initial_state(B)) == len(alone)
    assert state_size(stack) == sum(state_size(block.core) for block in stack.blocks)
    y, _ = stack.unroll(x, stack.initial_state(B), starts)
    (y * torch.randn_like(y)).sum().backward()
    unused = [n for n, each in stack.named_parameters() if each.grad is None or not each.grad.any()]
    assert not unused


@pytest.mark.parametrize("kind", sorted(CORES))
def test_a_list_of_the_same_memory_is_that_memory_in_all_layers(kind):
    stacks = []
    for config, core in (
        (StackConfig(width=D), [CORES[kind]()] * 2),
        (StackConfig(width=D, layers=2), CORES[kind]()),
    ):
        torch.manual_seed(0)
        stacks.append(ResidualStack(config, core))
    one, two = (stack.state_dict() for stack in stacks)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize(
    ("layers", "core", "message"),
    [
        (1, [], "core is an empty list; it should have one memory for each layer"),
        (
            3,
            [CORES["gru"](), CORES["lstm"]()],
            "layers is 3; core is a list of 2, so it should be 2 or be left out",
        ),
        (
            2,
            [CORES["gru"](), CORES["fast_weight"](heads=3)],
            "core.1: fast_weight: input_size 16 does not divide into 3 heads; use a multiple of "
            "3, or give key_size",
        ),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(layers, core, message):
    with pytest.raises(ConfigError) as error:
        ResidualStack(StackConfig(width=D, layers=layers), core)
    assert str(error.value) == message


@every_mix
def test_sequence_models_take_them(name):
    torch.manual_seed(0)
    layers = len(MIXES[name])
    words, starts = torch.randint(9, (B, T)), torch.zeros(B, T, dtype=torch.bool)
    config = LanguageModelConfig(width=D, layers=layers, feed_forward=8)
    for model in (
        LanguageModel(9, config, MIXES[name]),
        SequenceModel((9,), 9, StackConfig(width=D), MIXES[name]),
    ):
        y, state = model(words, model.initial_state(B), starts)
        assert y.shape[:2] == (B, T)
        first, before = model(words[:, :4], model.initial_state(B), starts[:, :4])
        second, end = model(words[:, 4:], before, starts[:, 4:])
        torch.testing.assert_close(torch.cat([first, second], 1), y, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(tensors_in(end), tensors_in(state), atol=1e-5, rtol=1e-4)
