"""Sequential ListOps: that the trees are those of plain rejection, and the answers are right."""

import random

import pytest
import torch

from fwrl import ConfigError
from fwrl.bench.algorithmic.listops_task import BRANCHING, SYMBOLS, ListOpsConfig, listops_batch
from fwrl.bench.sequence_model import ABSENT, NOT_ASKED
from fwrl.config import validate


def make(config, batch_size=64, seed=0):
    return listops_batch(config, batch_size, torch.Generator().manual_seed(seed))


def list_text(tokens):
    """One list as it is written, tokens separated by blanks."""
    return " ".join(SYMBOLS[number] for number in tokens.tolist() if number != ABSENT)


def evaluate(symbols):
    """The value, the depth and the most arguments of what the symbols begin with; eats them."""
    symbol = next(symbols)
    if symbol == "]":
        return None
    if symbol.isdigit():
        return int(symbol), 0, 0
    below = []
    while (one := evaluate(symbols)) is not None:
        below.append(one)
    values, depths, most = zip(*below, strict=True)
    operators = {"[MIN": min, "[MAX": max, "[FIRST": lambda all_of: all_of[0]}
    return operators[symbol](values), 1 + max(depths), max(len(values), *most)


@pytest.mark.parametrize(
    ("depth", "arguments"), [(1, 5), (2, 2), (3, 5), (10, 5), (15, 5), (18, 3), (4, 10)]
)
def test_answers_are_those_of_a_recursive_evaluation(depth, arguments):
    config = ListOpsConfig(depth=depth, max_arguments=arguments)
    most = []
    for tokens, targets in zip(*make(config, 400), strict=True):
        length = int((tokens != ABSENT).sum())
        assert (tokens[:length] != ABSENT).all()
        symbols = iter(list_text(tokens).split())
        value, deepest, widest = evaluate(symbols)
        assert next(symbols, None) is None
        assert deepest == depth
        assert targets[length - 1] == value
        assert (targets != NOT_ASKED).sum() == 1
        most.append(widest)
    assert max(most) == arguments


def shapes(heights, arguments):
    """Every tree of at most a height, as a string, and its chance; a leaf is a point."""
    found = {".": 1 - BRANCHING}
    for _ in range(heights):
        grown = {".": 1 - BRANCHING}
        for shape, chance in rooted(found, arguments).items():
            grown[shape] = BRANCHING * chance
        found = grown
    return found


def rooted(below, arguments):
    lists = {"": 1.0}
    whole = {}
    for number in range(1, arguments + 1):
        lists = {a + b: p * q for a, p in lists.items() for b, q in below.items()}
        if number >= 2:
            whole |= {f"({inside})": p / (arguments - 1) for inside, p in lists.items()}
    return whole


@pytest.mark.parametrize(("depth", "arguments"), [(1, 4), (2, 2), (2, 4), (4, 2)])
def test_shapes_are_as_probable_as_they_should_be(depth, arguments):
    config = ListOpsConfig(depth=depth, max_arguments=arguments)
    lower = rooted(shapes(depth - 1, arguments), arguments)
    if depth > 1:
        still_lower = rooted(shapes(depth - 2, arguments), arguments)
        lower = {shape: p for shape, p in lower.items() if shape not in still_lower}
    acceptance = sum(lower.values())
    assert config.acceptance == pytest.approx(acceptance, rel=1e-9)
    number = 20_000
    seen = dict.fromkeys(lower, 0)
    for tokens in make(config, number).tokens:
        seen[as_shape(tokens)] += 1
    # Pearson's statistic, rare shapes together; 5 standard deviations
    pooled = [[0.0, 0], *([number * p / acceptance, seen[s]] for s, p in lower.items())]
    rare = [each for each in pooled if each[0] < 10]
    cells = [each for each in pooled if each[0] >= 10]
    if sum(each[0] for each in rare) > 10:
        cells.append([sum(each[0] for each in rare), sum(each[1] for each in rare)])
    freedom = len(cells) - 1
    statistic = sum((observed - expected) ** 2 / expected for expected, observed in cells)
    assert statistic < freedom + 5 * (2 * freedom) ** 0.5


def as_shape(tokens):
    symbols = list_text(tokens).split()
    return "".join("." if s.isdigit() else ")" if s == "]" else "(" for s in symbols)


def plain_tree(numbers, level):
    """Value, length and deepest level of a random tree, as published; the root is level 1."""
    if level > 1 and (level >= 20 or numbers.random() > BRANCHING):
        return numbers.randrange(10), 1, level
    values, length, deepest = [], 2, 0
    for _ in range(numbers.randint(2, 5)):
        value, own, reached = plain_tree(numbers, level + 1)
        values.append(value)
        length, deepest = length + own, max(deepest, reached)
    return numbers.choice([min, max, lambda all_of: all_of[0]])(values), length, deepest


@pytest.mark.parametrize("depth", [3, 7])
def test_lists_are_those_that_plain_rejection_keeps(depth):
    numbers, tries = random.Random(0), 40_000
    config = ListOpsConfig(depth=depth)
    kept = [t for t in (plain_tree(numbers, 1) for _ in range(tries)) if t[2] == depth + 1]
    deviation = (config.acceptance / tries) ** 0.5
    assert len(kept) / tries == pytest.approx(config.acceptance, abs=4 * deviation)
    tokens, targets = make(config, 20_000)
    ours = [(tokens != ABSENT).sum(dim=1).double(), targets.amax(dim=1).double()]
    theirs = torch.tensor([each[:2] for each in kept], dtype=torch.double).flip(1).unbind(1)
    for of_ours, of_theirs in zip(ours, theirs, strict=True):
        # the distance of the distributions (Kolmogorov and Smirnov), once in 10 000 beyond this
        points = torch.cat([of_ours, of_theirs]).unique()
        below = [
            torch.searchsorted(s.sort().values, points, right=True) / len(s)
            for s in (of_ours, of_theirs)
        ]
        limit = 2.23 * (1 / len(of_ours) + 1 / len(of_theirs)) ** 0.5
        assert (below[0] - below[1]).abs().max() < limit


@pytest.mark.parametrize(
    ("depth", "acceptance", "length", "low", "high"),
    [(10, 0.015, 98, (37, 55), (280, 450)), (15, 0.0058, 186, (55, 90), (470, 760))],
)
def test_published_statistics(depth, acceptance, length, low, high):
    config = ListOpsConfig(depth=depth)
    assert config.acceptance == pytest.approx(acceptance, rel=0.06)
    tokens, targets = make(config, 6000)
    lengths = (tokens != ABSENT).sum(dim=1)
    assert lengths.float().mean().item() == pytest.approx(length, rel=0.03)
    assert low[0] <= lengths.min() <= low[1]
    assert high[0] <= lengths.max() <= high[1]
    answers = targets[targets >= 0]
    assert len(answers) == 6000
    shares = torch.bincount(answers, minlength=10) / 6000
    # the ends of the range are the most frequent, and equally so: of minima and of maxima
    assert shares.topk(2).indices.sort().values.tolist() == [0, 9]
    assert 0.165 < shares.max() < 0.21


def test_operators_and_digits_are_uniform():
    tokens = make(ListOpsConfig(depth=4), 3000).tokens
    counts = torch.bincount(tokens[tokens != ABSENT], minlength=14).double()
    for group in (counts[:10], counts[10:13]):
        expected = group.mean()
        assert ((group - expected).abs() < 5 * expected.sqrt()).all()
    assert counts[13] == counts[10:13].sum()


def test_every_list_is_another_and_a_seed_repeats_them():
    config, generator = ListOpsConfig(depth=5), torch.Generator().manual_seed(0)
    texts = {
        list_text(tokens)
        for _ in range(2)
        for tokens in listops_batch(config, 200, generator).tokens
    }
    assert len(texts) == 400
    for ours, again in zip(make(config), make(config), strict=True):
        torch.testing.assert_close(ours, again, atol=0, rtol=0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"depth": 0}, "depth is 0; .* greater than or equal to 1"),
        ({"depth": 19}, "depth is 19; .* less than or equal to 18"),
        ({"max_arguments": 1}, "max_arguments is 1; .* greater than or equal to 2"),
        ({"arguments": 3}, "did you mean 'max_arguments'"),
    ],
)
def test_lists_that_cannot_be_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        validate(ListOpsConfig, values, "listops")
