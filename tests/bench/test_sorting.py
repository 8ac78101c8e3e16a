"""Sorting by frequency: a slow count in plain Python, the drift, and what a window can know."""

import re

import pytest
import torch

from fwrl.bench.sequence_model import NOT_ASKED
from fwrl.bench.sorting.task import (
    SortingConfig,
    by_frequency,
    by_last_window,
    drifting,
    sorting_batch,
)
from fwrl.config import ConfigError, validate

CONFIG = SortingConfig(symbols=6, length=40)


def make(config=CONFIG, batch_size=50, seed=0):
    return sorting_batch(config, batch_size, torch.Generator().manual_seed(seed))


def sorted_slowly(symbols, count):
    """The definition, one symbol at a time."""
    seen = list(dict.fromkeys(symbols))
    # of equally frequent ones, sorting keeps the order of the first occurrences
    ordered = sorted(seen, key=lambda symbol: -symbols.count(symbol))
    return ordered + [symbol for symbol in range(count) if symbol not in seen]


@pytest.mark.parametrize("length", [1, 5, 40, 300])
def test_answers_are_all_symbols_by_frequency(length):
    config = SortingConfig(symbols=6, length=length)
    tokens, targets = make(config)
    assert tokens.shape == targets.shape == (50, config.times)
    for row, asked in zip(tokens.tolist(), targets.tolist(), strict=True):
        answers = sorted_slowly(row[:length], 6)
        assert asked == [NOT_ASKED] * length + answers
        # the separator, then each answer but the last, when the next one is asked for
        assert row[length:] == [6, *answers[:-1]]


def test_ties_and_symbols_that_do_not_occur():
    symbols = torch.tensor([[3, 1, 1, 3, 0, 5], [2, 2, 2, 2, 2, 2], [5, 4, 3, 2, 1, 0]])
    expected = [[3, 1, 0, 5, 2, 4], [2, 0, 1, 3, 4, 5], [5, 4, 3, 2, 1, 0]]
    assert by_frequency(symbols, 6).tolist() == expected


def test_a_seed_repeats_and_every_sequence_is_another():
    generator = torch.Generator().manual_seed(0)
    first, second = (sorting_batch(CONFIG, 100, generator) for _ in range(2))
    assert len(torch.cat([first.tokens, second.tokens]).unique(dim=0)) == 200
    torch.testing.assert_close(make(batch_size=100), first, atol=0, rtol=0)


def shares(symbols):
    return torch.nn.functional.one_hot(symbols, 4).float().mean(dim=(0, 1))


def test_the_distribution_drifts_in_equal_steps(monkeypatch):
    # two distributions that cannot be mistaken, the same in every sequence
    likely = torch.tensor([[9, 1, 1, 1], [1, 1, 1, 9]])
    monkeypatch.setattr(torch, "randint", lambda *_, **__: likely[:, None].expand(2, 2_000, 4))
    config = SortingConfig(symbols=4, length=50)
    symbols = drifting(config, 2_000, torch.Generator().manual_seed(0))
    for index in (0, 12, 24, 37, 49):
        x = (index + 1) / 50
        expected = ((1 - x) * likely[0] + x * likely[1]) / 12
        # five standard deviations of a share
        torch.testing.assert_close(shares(symbols[:, [index]]), expected, atol=0.056, rtol=0)


def test_the_last_symbol_is_of_the_second_distribution_alone(monkeypatch):
    only = torch.tensor([[1, 0], [0, 1]])
    monkeypatch.setattr(torch, "randint", lambda *_, **__: only[:, None].expand(2, 9_000, 2))
    symbols = drifting(SortingConfig(symbols=2, length=3), 9_000, torch.Generator().manual_seed(0))
    assert symbols[:, 2].all()
    assert symbols[:, 0].float().mean() == pytest.approx(1 / 3, abs=0.025)
    assert symbols[:, 1].float().mean() == pytest.approx(2 / 3, abs=0.025)


def test_likelihoods_are_whole_numbers_from_one_to_nine(monkeypatch):
    drawn, draw = [], torch.multinomial
    monkeypatch.setattr(
        torch,
        "multinomial",
        lambda given, *rest, **more: drawn.append(given) or draw(given, *rest, **more),
    )
    drifting(SortingConfig(symbols=20, length=1), 900, torch.Generator().manual_seed(0))
    assert not torch.equal(*drawn)
    for given in drawn:
        assert given.shape == (900, 20)
        counts = torch.bincount(given.long().flatten(), minlength=10)
        assert counts[0] == 0
        # five standard deviations
        torch.testing.assert_close(counts[1:] / 18_000, torch.full((9,), 1 / 9), atol=0.012, rtol=0)


def test_two_symbols_have_the_shares_that_follow():
    config = SortingConfig(symbols=2, length=20_000)
    symbols = drifting(config, 300, torch.Generator().manual_seed(0)).float()
    # the last times tell the second distribution of each sequence: i / (i + j)
    share = 1 - symbols[:, -2000:].mean(dim=1)
    assert share.min() > 0.07
    assert share.max() < 0.93
    assert share.mean() == pytest.approx(0.5, abs=0.06)
    # of i and j uniform from 1 to 9; equal chances would give 0, a uniform share 0.083
    pairs = torch.cartesian_prod(torch.arange(1, 10), torch.arange(1, 10)).float()
    assert share.var() == pytest.approx((pairs[:, 0] / pairs.sum(1)).var().item(), abs=0.015)


def test_what_counts_all_is_always_right():
    batch = make(SortingConfig(symbols=6, length=40))
    assert by_last_window(CONFIG, batch, 40).all()
    assert by_last_window(CONFIG, batch, 10_000).all()


@pytest.mark.parametrize("window", [1, 7, 30])
def test_a_window_names_the_most_frequent_of_those_that_are_left(window):
    batch = make()
    right = by_last_window(CONFIG, batch, window)
    for row, targets, found in zip(*batch, right, strict=True):
        answers = targets[CONFIG.length :].tolist()
        order = sorted_slowly(row[CONFIG.length - window : CONFIG.length].tolist(), 6)
        for time, answer in enumerate(answers):
            guess = next(symbol for symbol in order if symbol not in answers[:time])
            assert bool(found[time]) == (guess == answer)
    assert right[:, -1].all()


def test_chance_names_any_that_is_left():
    assert SortingConfig(symbols=2, length=8).chance == pytest.approx(0.75)
    config = SortingConfig(symbols=6, length=400)
    tokens, targets = make(config, 4_000)
    # a window that no longer knows anything: the order of other sequences
    shuffled = torch.cat([tokens[:, : config.length].roll(1, dims=0), tokens[:, 400:]], dim=1)
    right = by_last_window(config, type(make())(shuffled, targets), 400).mean().item()
    assert right == pytest.approx(config.chance, abs=0.02)


def test_mistakes_are_named():
    with pytest.raises(ConfigError, match=re.escape("symbols is 1; it should be greater")):
        validate(SortingConfig, {"symbols": 1})
