"""The measures of a memory against NumPy, and against cases that are known."""

import numpy as np
import pytest
import torch

from fwrl.core import Reads
from fwrl.inspection.measures import (
    MEASURES,
    effective_rank,
    key_overlap,
    memory_measures,
    memory_scalars,
)
from fwrl.update_rules import UPDATE_RULES, ScanInputs, Write

B, T, H, K, V = 2, 6, 3, 4, 5


def some_reads(rule):
    torch.manual_seed(0)
    write = Write(
        torch.randn(B, T, H, K), torch.randn(B, T, H, V), torch.rand(B, T, H, 1),
        torch.rand(B, T, H, 1),
    )  # fmt: skip
    starts = torch.zeros(B, T, dtype=torch.bool)
    starts[0, 2] = True
    state, query = torch.randn(B, H, K, V), torch.randn(B, T, H, K)
    return Reads(rule, UPDATE_RULES[rule], ScanInputs(state, query, write, starts))


@pytest.mark.parametrize("rule", ["gated_delta", "clipped_delta"])
def test_every_measure_against_numpy(rule):
    given = some_reads(rule)
    measures = memory_measures(given)
    assert measures.keys() == MEASURES.keys()
    weights = given.inputs.state[0, 1].double().numpy()
    keys = []
    for t in range(T):
        write = [
            field[0, t, 1].double().numpy() for field in given.inputs.write if field is not None
        ]
        key, value, beta, decay = write
        if t == 2:
            weights, keys = np.zeros_like(weights), []
        weights = decay * weights if rule == "gated_delta" else weights
        weights = weights + beta * np.outer(key, value - key @ weights)
        if rule == "clipped_delta":
            weights = weights / max(1.0, np.linalg.norm(weights))
        singular = np.linalg.svd(weights)[1]
        share = singular / singular.sum()
        cosines = [abs(key @ k) / np.linalg.norm(key) / np.linalg.norm(k) for k in keys]
        query = given.inputs.query[0, t, 1].double().numpy()
        expected = {
            "beta": beta[0],
            "decay": decay[0],
            "state_norm": np.sqrt((weights**2).sum()),
            "effective_rank": np.prod(share**-share),
            "key_overlap": max(cosines, default=0.0),
            "query_key_cosine": query @ key / np.linalg.norm(query) / np.linalg.norm(key),
        }
        for name, number in expected.items():
            assert measures[name][0, t, 1].item() == pytest.approx(number, rel=1e-4), (t, name)
        keys.append(key)


def test_effective_rank_of_known_matrices():
    assert effective_rank(torch.eye(5)[:3]).item() == pytest.approx(3)
    assert effective_rank(torch.outer(torch.randn(4), torch.randn(6))).item() == pytest.approx(
        1, abs=1e-4
    )
    assert effective_rank(torch.zeros(3, 4)).item() == 0


def test_keys_of_other_episodes_do_not_overlap():
    key = torch.eye(2)[[0, 1, 0, 0]].view(1, 4, 1, 2)
    starts = torch.tensor([[False, False, False, False]])
    assert key_overlap(-key, starts).flatten().tolist() == [0, 0, 1, 1]
    starts[0, 2] = True
    assert key_overlap(key, starts).flatten().tolist() == [0, 0, 0, 1]


def test_scalars_are_means():
    given = some_reads("gated_delta")
    scalars = memory_scalars([given, given])
    assert scalars.keys() == {f"memory/{name}" for name in MEASURES}
    assert scalars["memory/beta"] == pytest.approx(given.inputs.write.beta.mean().item())
    assert memory_scalars([]) == {}
