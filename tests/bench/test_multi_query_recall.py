"""Multi-query recall: what its sequences hold, where they ask, and what is refused."""

import re

import pytest
import torch

from fwrl import ConfigError
from fwrl.bench.recall.multi_query import MultiQueryConfig, multi_query_batch
from fwrl.bench.sequence_model import NOT_ASKED
from fwrl.config import validate

SIZES = {"vocabulary_size": 20, "length": 20, "num_pairs": 3}
CONFIGS = {
    f"{filler}, {passes} passes": MultiQueryConfig(**SIZES, filler=filler, passes=passes)
    for filler in ("constant", "random")
    for passes in (1, 2)
}
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def make(config, batch_size=64, seed=0):
    return multi_query_batch(config, batch_size, torch.Generator().manual_seed(seed))


@every_config
def test_a_reader_of_the_sequence_knows_every_answer(config):
    """Reads each sequence token by token, keeping a dictionary of what it has seen."""
    context = 2 * config.num_pairs * config.passes
    for tokens, targets in zip(*(part.tolist() for part in make(config)), strict=True):
        shown = [tuple(tokens[time : time + 2]) for time in range(0, context, 2)]
        pairs = dict(shown)
        assert shown == list(pairs.items()) * config.passes
        asked = [time for time, target in enumerate(targets) if target != NOT_ASKED]
        assert {tokens[time]: targets[time] for time in asked} == pairs
        assert len(asked) == config.num_pairs
        assert all(time >= context and time % 2 == 0 for time in asked)
        others = [tokens[t] for t in range(context, config.length) if t not in asked]
        assert set(others) == {0} or config.filler == "random"


@every_config
def test_keys_are_of_the_lower_half_and_values_of_the_upper_and_none_comes_twice(config):
    tokens, _ = make(config, 2_000)
    keys, values = tokens[:, : 2 * config.num_pairs].unflatten(1, (-1, 2)).unbind(-1)
    assert set(keys.unique().tolist()) == set(range(1, 10))
    assert set(values.unique().tolist()) == set(range(10, 20))
    for drawn in (keys, values):
        assert (drawn.sort(dim=1).values.diff(dim=1) > 0).all()
    assert (config.num_keys, config.num_values) == (9, 10)
    assert config.chance == 0.1


def test_keys_and_values_are_uniform_and_know_nothing_of_each_other():
    config = MultiQueryConfig(vocabulary_size=8, length=8, num_pairs=2)
    tokens, _ = make(config, 30_000)
    both = (tokens[:, 0] - 1) * 4 + tokens[:, 1] - 4
    shares = torch.bincount(both, minlength=12) / len(both)
    torch.testing.assert_close(shares, torch.full((12,), 1 / 12), atol=0.008, rtol=0)


@pytest.mark.parametrize("power", [0.01, 0.5, 1.0])
def test_the_first_query_is_placed_by_the_power_law(power):
    config = MultiQueryConfig(**SIZES, power=power)
    tokens, targets = make(config, 30_000)
    first = (tokens[:, 6:] == tokens[:, :1]) & (targets[:, 6:] != NOT_ASKED)
    places = first.nonzero()[:, 1] // 2
    assert len(places) == 30_000
    shares = torch.bincount(places, minlength=7) / len(places)
    expected = torch.arange(1, 8) ** (power - 1.0)
    torch.testing.assert_close(shares, expected / expected.sum(), atol=0.012, rtol=0)


def test_the_second_query_is_placed_by_what_is_left_of_the_law():
    config = MultiQueryConfig(vocabulary_size=8, length=10, num_pairs=2, power=0.01)
    tokens, targets = make(config, 30_000)
    asked = targets[:, 4:] != NOT_ASKED
    first = (asked & (tokens[:, 4:] == tokens[:, :1])).nonzero()[:, 1] // 2
    second = (asked & (tokens[:, 4:] == tokens[:, 2:3])).nonzero()[:, 1] // 2
    law = [place**-0.99 for place in (1, 2, 3)]
    for place in range(3):
        for other in range(3):
            left = sum(law) - law[place]
            expected = 0 if place == other else law[place] / sum(law) * law[other] / left
            share = ((first == place) & (second == other)).double().mean().item()
            assert share == pytest.approx(expected, abs=0.012)


def test_random_filler_is_any_token():
    tokens, targets = make(CONFIGS["random, 1 passes"], 5_000)
    filler = tokens[:, 6:][targets[:, 6:] == NOT_ASKED]
    shares = torch.bincount(filler, minlength=20) / len(filler)
    torch.testing.assert_close(shares, torch.full((20,), 0.05), atol=0.005, rtol=0)


@every_config
def test_every_sequence_is_another_and_a_seed_repeats_them(config):
    generator = torch.Generator().manual_seed(0)
    first, second = (multi_query_batch(config, 200, generator) for _ in range(2))
    assert len(torch.cat([first.tokens, second.tokens]).unique(dim=0)) == 400
    for ours, again in zip(first, make(config, 200), strict=True):
        torch.testing.assert_close(ours, again, atol=0, rtol=0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"length": 10}, "length is 10, .* use an even number from 12"),
        ({"length": 17}, "length is 17, .* use an even number from 12"),
        ({"passes": 3, "length": 22}, "length is 22, but 3 showings .* even number from 24"),
        ({"num_pairs": 4, "vocabulary_size": 8}, "num_pairs is 4, .* at most 3 with .* of 8"),
        ({"vocabulary_size": 3}, "vocabulary_size"),
        ({"power": 0}, "power"),
        ({"num_pair": 3}, re.escape("did you mean 'num_pairs'?")),
    ],
)
def test_sizes_that_contradict_each_other_are_refused_in_one_line(values, message):
    with pytest.raises(ConfigError, match=message) as error:
        validate(MultiQueryConfig, SIZES | values, "task")
    assert "\n" not in str(error.value)


def test_all_pairs_fit_where_there_is_just_room():
    config = MultiQueryConfig(vocabulary_size=8, length=12, num_pairs=3)
    tokens, targets = make(config)
    assert (targets[:, 6::2] != NOT_ASKED).all()
    assert (tokens[:, 6::2].sort(dim=1).values == torch.tensor([1, 2, 3])).all()
