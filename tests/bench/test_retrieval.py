"""The retrieval experiments: their data, their model against the scans, and how they learn."""

from pathlib import Path

import pytest
import torch

from fwrl.bench.retrieval import benchmark as retrieval
from fwrl.bench.retrieval import update
from fwrl.bench.retrieval.benchmark import METHODS, squared_error
from fwrl.bench.retrieval.model import EPSILON, RetrievalModel, read_weights
from fwrl.bench.retrieval.task import RetrievalBatch, evaluation_batch, training_batch
from fwrl.feature_maps import dpfp, elu_plus_one
from fwrl.kernels import scan
from fwrl.update_rules import Write, clipped_delta_rule, delta_rule, sum_rule

# no checkpoint is there
NOWHERE = Path("nowhere")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def latest(keys, values, query):
    """The value that a key was written with last, by going through the writes."""
    found = None
    for key, value in zip(keys.tolist(), values.tolist(), strict=True):
        if key == query:
            found = value
    return found


@pytest.mark.parametrize("replacement", [False, True])
def test_targets_are_the_latest_values(replacement):
    batch = training_batch(7, replacement, 200, generator())
    assert batch.keys.shape == (200, 14 if replacement else 7)
    assert batch.asked.all()
    for keys, values, query, target in zip(*batch[:4], strict=True):
        assert latest(keys, values, query.item()) == target.item()
    batch = evaluation_batch(7, replacement, 9, 50, 4, generator(1))
    assert batch.keys.shape == (50, 9 if replacement else 7)
    for keys, values, queries, targets, asked in zip(*batch, strict=True):
        known = sorted(set(keys.tolist()))[:4]
        assert queries[asked].tolist() == known
        assert targets[asked].tolist() == [latest(keys, values, key) for key in known]


def test_without_replacement_each_key_and_each_value_occurs_once():
    batch = training_batch(30, False, 500, generator())
    for rows in (batch.keys, batch.values):
        assert (rows.sort(dim=1).values == torch.arange(30)).all()
    # the two orders are independent: a value follows its key in one of S cases
    assert (batch.keys == batch.values).float().mean().item() == pytest.approx(1 / 30, abs=0.005)
    counts = batch.queries.flatten().bincount(minlength=30)
    assert counts.min() > 0


def test_with_replacement_frequent_keys_are_asked_for_more_often():
    batch = training_batch(10, True, 4000, generator())
    often = (batch.keys == batch.queries).sum(dim=1).float().mean().item()
    # the position that is asked for counts, and each of the 19 others has it with 1 in 10
    assert often == pytest.approx(1 + 19 / 10, abs=0.05)


@pytest.mark.parametrize(("rule", "feature_map"), [("sum", elu_plus_one), ("delta", dpfp)])
@pytest.mark.parametrize("length", [1, 63, 64, 65, 150])
def test_read_weights_are_what_the_scan_reads(rule, feature_map, length):
    shape = {"dtype": torch.float64, "generator": generator(length)}
    key = feature_map(torch.randn(3, length, 6, **shape))
    if rule == "delta":
        key = key / key.sum(dim=-1, keepdim=True)
    query = feature_map(torch.randn(3, 4, 6, **shape))
    value = torch.randn(3, length, 5, **shape)
    beta = torch.rand(3, length, 1, **shape) if rule == "delta" else None
    weights = read_weights(rule, key, beta, query)

    write = Write(key.unsqueeze(2), value.unsqueeze(2), None if beta is None else beta.unsqueeze(2))
    empty = torch.zeros(3, 1, key.shape[-1], 5, dtype=torch.float64)
    starts = torch.zeros(3, length, dtype=torch.bool)
    function = {"sum": sum_rule, "delta": delta_rule}[rule]
    _, memory = scan(function, empty, write.key, write, starts, kernel="reference")
    read = query @ memory.squeeze(1)
    if rule == "sum":
        read = read / (query @ key.sum(dim=1).unsqueeze(-1) + EPSILON)
    torch.testing.assert_close(weights @ value, read, atol=1e-10, rtol=1e-10)


def test_attention_is_torchs():
    shape = {"dtype": torch.float64, "generator": generator()}
    key, query = torch.randn(2, 9, 8, **shape), torch.randn(2, 3, 8, **shape)
    value = torch.randn(2, 9, 5, **shape)
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    weights = read_weights("attention", key, None, query)
    torch.testing.assert_close(weights @ value, expected)


@pytest.mark.parametrize("method", METHODS)
def test_the_model_is_the_published_one(method):
    """The same parameters in the plain form: one-hot values, two linear layers, one memory."""
    torch.manual_seed(0)
    config, num_keys = METHODS[method], 6
    model = RetrievalModel(config, num_keys, key_size=8).double()
    batch = training_batch(num_keys, True, 5, generator())
    state = torch.get_rng_state()
    answer = model(batch)
    torch.set_rng_state(state)
    if config.feature_map.startswith("favor"):
        model.feature_map.features.redraw()

    one_hot = torch.nn.functional.one_hot(batch.values, num_keys).double()
    pair = torch.cat([one_hot, model.embedding(batch.keys)], dim=-1)
    key = model.feature_map(model.write_key(pair))
    query = model.feature_map(model.query(model.embedding(batch.queries)))
    if config.rule == "clipped_delta":
        beta = model.beta(pair).sigmoid()
        memory = torch.zeros(5, 1, key.shape[-1], num_keys, dtype=torch.float64)
        for t in range(key.shape[1]):
            write = Write(key[:, t : t + 1], one_hot[:, t : t + 1], beta[:, t : t + 1])
            memory = clipped_delta_rule(memory, write)
        expected = torch.nn.functional.layer_norm(query @ memory.squeeze(1), (num_keys,))
    else:
        beta = model.beta(pair).sigmoid() if config.rule == "delta" else None
        expected = read_weights(config.rule, key, beta, query) @ one_hot
    torch.testing.assert_close(answer, expected)


def test_random_features_are_drawn_at_every_pass():
    torch.manual_seed(0)
    model = RetrievalModel(METHODS["sum, favor 64"], 5)
    batch = training_batch(5, False, 2, generator())
    assert not torch.equal(model(batch), model(batch))


def test_the_loss_of_zeros_is_a_half():
    batch = training_batch(5, False, 4, generator())
    assert squared_error(torch.zeros(4, 1, 5), batch).tolist() == [[0.5]] * 4
    right = torch.nn.functional.one_hot(batch.targets, 5).float()
    assert (squared_error(right, batch) == 0).all()


def best_loss(benchmark, method, keys, max_steps=1200, seed=1):
    settings = benchmark.settings(max_steps=max_steps)
    measurement = benchmark.measure(
        settings, {"method": method, "keys": keys, "seed": seed}, NOWHERE
    )
    try:
        while True:
            next(measurement)
    except StopIteration as end:
        return end.value[0]["loss"]


@pytest.mark.learns
def test_the_delta_rule_replaces_and_the_sum_does_not():
    """Setting 2 at S = 20: published 0.0008 after 700 steps, and 0.097 at best."""
    assert best_loss(update.BENCHMARK, "delta, dpfp 1", 20, 900) <= 0.001
    assert best_loss(update.BENCHMARK, "sum, dpfp 1", 20, 600) > 0.09


@pytest.mark.slow
@pytest.mark.learns
def test_a_map_of_64_features_holds_40_pairs_and_not_60():
    """Setting 1: published 0.0008 after 600 steps for S = 40, and 0.0245 at best for S = 60.

    Of two keys that have come to share an address none leaves it again: with some seeds S = 40
    ends at 0.013.
    """
    method, benchmark = "sum, elu + 1", retrieval.BENCHMARK
    assert min(best_loss(benchmark, method, 40, 1000, seed) for seed in (1, 2)) <= 0.001
    assert min(best_loss(benchmark, method, 60, 1500, seed) for seed in (1, 2)) > 0.02


def test_batches_are_a_named_tuple_of_rows():
    batch = evaluation_batch(4, False, 4, 2, 200, generator())
    assert isinstance(batch, RetrievalBatch)
    assert {len(each) for each in batch} == {2}
