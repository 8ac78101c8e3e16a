"""Adam in C equals clipping and Adam of PyTorch, and leaves alone what it does not serve."""

import copy
import math

import pytest
import torch
from torch import nn

from fwrl.kernels.native import library as loading
from fwrl.kernels.native.adam import clipped_step

pytestmark = pytest.mark.skipif(loading.library().functions is None, reason=loading.library().about)

# less and more than vectors and blocks; one number; none
SHAPES = [(3, 5), (1,), (), (0,), (130, 257), (16384,), (40000,)]


def parameters(**settings):
    torch.manual_seed(0)
    values = [nn.Parameter(torch.randn(shape)) for shape in SHAPES]
    return values, torch.optim.Adam(values, **{"fused": True, "eps": 1e-5, **settings})


def give_gradients(values, size=1.0):
    for value in values:
        value.grad = size * torch.randn_like(value)


def in_torch(values, optimizer, longest):
    norm = nn.utils.clip_grad_norm_(values, math.inf if longest is None else longest)
    if norm.isfinite():
        optimizer.step()
    return norm


def begun(**settings):
    """Parameters after a first step, which C leaves to PyTorch, and a copy of them."""
    values, optimizer = parameters(**settings)
    give_gradients(values)
    assert clipped_step(optimizer, None) is None
    optimizer.step()
    return (values, optimizer), copy.deepcopy((values, optimizer))


@pytest.mark.parametrize("longest", [None, 0.5, 1e6])
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.0, 0.5)])
def test_it_equals_the_steps_of_torch(longest, betas, variant):
    (values, optimizer), (others, other) = begun(lr=0.01, betas=betas)
    for size in (1.0, 1e-3, 1e3, 0.0):
        give_gradients(values, size)
        for value, own in zip(values, others, strict=True):
            own.grad = value.grad.clone()
        before = [value.grad.clone() for value in values]
        norm = clipped_step(optimizer, longest)
        assert all(map(torch.equal, before, [value.grad for value in values]))
        torch.testing.assert_close(norm, in_torch(others, other, longest), rtol=1e-5, atol=0)
        torch.testing.assert_close(values, others, rtol=1e-6, atol=1e-6)
    states, expected = optimizer.state_dict()["state"], other.state_dict()["state"]
    torch.testing.assert_close(states, expected, rtol=1e-5, atol=1e-7)


def test_threads_change_nothing(monkeypatch):
    (values, optimizer), (others, other) = begun()
    give_gradients(values)
    for value, own in zip(values, others, strict=True):
        own.grad = value.grad.clone()
    threads = torch.get_num_threads()
    norm = clipped_step(optimizer, 0.1)
    monkeypatch.setattr(loading, "WORTH_A_THREAD", 1)
    try:
        torch.set_num_threads(2)
        assert torch.equal(clipped_step(other, 0.1), norm)
    finally:
        torch.set_num_threads(threads)
    assert all(map(torch.equal, values, others))


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_changes_nothing(poison, variant):
    (values, optimizer), (others, other) = begun()
    give_gradients(values)
    values[4].grad[100, 3] = poison
    assert not clipped_step(optimizer, 0.5).isfinite()
    assert all(map(torch.equal, values, others))
    states, expected = optimizer.state_dict()["state"], other.state_dict()["state"]
    torch.testing.assert_close(states, expected, rtol=0, atol=0)


def test_parameters_without_a_gradient_stay():
    (values, optimizer), (others, _) = begun()
    give_gradients(values)
    values[0].grad = None
    assert clipped_step(optimizer, None) is not None
    assert [torch.equal(*pair) for pair in zip(values, others, strict=True)] == [
        *(True, False, False, True),
        *(False, False, False),
    ]


def test_a_change_is_seen_by_what_was_to_be_differentiated():
    (values, optimizer), _ = begun()
    give_gradients(values)
    product = values[0].square().sum()
    assert clipped_step(optimizer, None) is not None
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()


def test_hooks_before_a_step_can_refuse_it():
    (values, optimizer), (others, _) = begun()
    give_gradients(values)

    def refuse(*_):
        raise InterruptedError

    optimizer.register_step_pre_hook(refuse)
    with pytest.raises(InterruptedError):
        clipped_step(optimizer, None)
    assert all(map(torch.equal, values, others))


@pytest.mark.parametrize("settings", [{"weight_decay": 0.1}, {"amsgrad": True}, {"maximize": True}])
def test_other_settings_are_left_to_torch(settings):
    (values, optimizer), (others, _) = begun(**settings)
    give_gradients(values)
    assert clipped_step(optimizer, None) is None
    assert all(map(torch.equal, values, others))


def test_other_tensors_are_left_to_torch():
    (values, optimizer), _ = begun()
    give_gradients(values)
    values[4].grad = torch.randn(257, 130).t()
    assert clipped_step(optimizer, None) is None
    doubled = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    optimizer = torch.optim.Adam([doubled])
    doubled.grad = torch.ones_like(doubled)
    optimizer.step()
    assert clipped_step(optimizer, None) is None
