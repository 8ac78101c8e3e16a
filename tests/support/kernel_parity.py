"""Compares kernels with the reference: outputs, end state and all gradients of random scans."""

import torch
from torch.nn import functional as F

from fwrl.kernels import scan
from fwrl.update_rules import UPDATE_RULES, Write

B, H, K, V = 2, 2, 4, 3
PER_CHANNEL = {name for name, rule in UPDATE_RULES.items() if rule.decay == "feature"}


def random_scan(
    name, times, density, dtype=torch.double, fresh_streams=1, sizes=(B, H, K, V), spread=1.0
):
    """Leaf tensors (query, the fields of a write, state, fresh state) and starts of a random scan.

    Args:
        name: The name of the update rule.
        times: The number of time steps.
        density: The probability that an episode starts at a time step.
        dtype: The type of the leaves.
        fresh_streams: The batch size of the fresh state.
        sizes: Batch size, heads, key size, value size.
        spread: Below 1, all keys are one key plus this times noise.
    """
    batch, heads, key_size, value_size = sizes

    def random(*shape):
        return torch.randn(*shape, dtype=torch.double)

    one_key = random(batch, 1, heads, key_size)
    key = one_key + spread * random(batch, times, heads, key_size) if spread < 1 else None
    key = random(batch, times, heads, key_size) if key is None else key
    channels = key_size if name in PER_CHANNEL else 1
    leaves = [
        random(batch, times, heads, key_size),
        F.normalize(key, dim=-1),
        random(batch, times, heads, value_size),
        torch.rand(batch, times, heads, 1, dtype=torch.double),
        torch.rand(batch, times, heads, channels, dtype=torch.double),
        F.normalize(random(batch, times, heads, key_size), dim=-1),
        torch.rand(batch, times, heads, key_size, dtype=torch.double),
        random(batch, heads, key_size, value_size),
        random(fresh_streams, heads, key_size, value_size),
    ]
    leaves = [leaf.to(dtype).requires_grad_() for leaf in leaves]
    return leaves, torch.rand(batch, times) < density


def values_and_gradients(rule, leaves, starts, kernel, with_fresh=True):
    """Outputs, end state, and the gradients of a random projection of both to all leaves."""
    query, *write, state, fresh = leaves
    start = fresh if with_fresh else None
    values, end = scan(rule, state, query, Write(*write), starts, start, kernel)
    generator = torch.Generator().manual_seed(1)
    loss = sum(
        (x * torch.randn(x.shape, dtype=torch.double, generator=generator).to(x)).sum()
        for x in (values, end)
    )
    gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
    gradients = [torch.zeros(()) if g is None else g for g in gradients]
    return [values.detach(), end.detach(), *gradients]


def assert_equals_reference(rule, leaves, starts, kernel, tolerance, with_fresh=True):
    truth = values_and_gradients(rule, leaves, starts, "reference", with_fresh)
    fast = values_and_gradients(rule, leaves, starts, kernel, with_fresh)
    names = ["values", "end", "query", *Write._fields, "state", "fresh"]
    for name, expected, actual in zip(names, truth, fast, strict=True):
        scale = max(1.0, expected.abs().max().item())
        error = (expected - actual).abs().max().item() / scale
        assert error < tolerance, f"{name}: {error}"
