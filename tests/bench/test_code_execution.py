"""Code execution: what its programs are, and that their targets are what Python prints."""

import pytest
import torch

from fwrl import ConfigError
from fwrl.bench.algorithmic.code_task import (
    HIGHEST,
    LOWEST,
    NUM_CLASSES,
    SILENT,
    SYMBOLS,
    VARIABLES,
    CodeConfig,
    _Draws,
    _run,
    _Variables,
    code_batch,
)
from fwrl.bench.sequence_model import ABSENT, NOT_ASKED
from fwrl.config import validate

KINDS = ("assign", "count", "print", "if")


def make(config, batch_size=64, seed=0):
    return code_batch(config, batch_size, torch.Generator().manual_seed(seed))


def program_text(config, tokens):
    """One program as it is written, tokens separated by blanks."""
    symbols = SYMBOLS + VARIABLES[: config.num_variables]
    return " ".join(symbols[number] for number in tokens.tolist() if number != ABSENT)


def statements_of(config, tokens):
    """Each statement as the list of its symbols, without its semicolon."""
    return [each.split() for each in program_text(config, tokens).split(";")[:-1]]


def kind_of(statement):
    words = {"if": "if", "print": "print"}
    return words.get(statement[0]) or ("assign" if statement[1] == "=" else "count")


def python_of(statement, place, quirk):
    """One statement in Python: what is printed goes to a dictionary, under its place."""
    if statement[0] == "if":
        inside = statement[5:]
        ignored = f" and {inside[0]!r} not in globals()" if quirk and "=" in inside else ""
        return f"if {' '.join(statement[1:4])}{ignored}: {python_of(inside, place, quirk)}"
    if statement[0] == "print":
        return f"printed[{place}] = {statement[1]}"
    variable, sign, *rest = statement
    return " ".join([variable, {"++": "+= 1", "--": "-= 1"}.get(sign, "="), *rest])


def run_in_python(config, tokens):
    """The output of Python, by the place of the semicolon behind it."""
    lines, place = [], -1
    for statement in statements_of(config, tokens):
        place += len(statement) + 1
        lines.append(python_of(statement, place, config.published_quirk))
    memory = {"printed": {}}
    # a variable that is used before it is defined is an error here
    exec("\n".join(lines), memory)
    return memory["printed"]


def assert_python_agrees(config, batch):
    ends = SYMBOLS.index(";")
    for tokens, targets in zip(*batch, strict=True):
        length = int((tokens != ABSENT).sum())
        assert (tokens[:length] != ABSENT).all()
        assert (targets[length:] == NOT_ASKED).all()
        assert tokens[length - 1] == ends
        assert targets[length - 1] != SILENT
        printed = run_in_python(config, tokens)
        ours = {int(t): int(targets[t]) - 1 + LOWEST for t in (targets > SILENT).nonzero()}
        assert ours == printed


@pytest.mark.parametrize("quirk", [False, True])
@pytest.mark.parametrize(
    ("statements", "variables", "programs"),
    [(20, 3, 1500), (100, 3, 150), (100, 5, 150), (7, 1, 500)],
)
def test_targets_are_what_python_prints(statements, variables, programs, quirk):
    config = CodeConfig(num_statements=statements, num_variables=variables, published_quirk=quirk)
    assert_python_agrees(config, make(config, programs))


def test_the_quirk_changes_many_targets_but_is_not_everything():
    plain, quirk = (make(CodeConfig(published_quirk=on), 500) for on in (False, True))
    shared = min(plain.tokens.shape[1], quirk.tokens.shape[1])
    # a sign depends on a value only at the ends of the range
    same = (plain.tokens[:, :shared] == quirk.tokens[:, :shared]).all(dim=1)
    assert same.float().mean() > 0.9
    printed = (plain.targets[:, :shared] > 0) & (quirk.targets[:, :shared] > 0)
    differ = (plain.targets[:, :shared] != quirk.targets[:, :shared]) & printed & same[:, None]
    assert 0.02 < differ.sum() / printed.sum() < 0.3


@pytest.mark.parametrize(("variables", "symbols"), [(3, 22), (5, 24)])
def test_published_statistics(variables, symbols):
    config = CodeConfig(num_variables=variables, published_quirk=True)
    tokens, targets = make(config, 4000)
    lengths = (tokens != ABSENT).sum(dim=1)
    assert lengths.float().mean().item() == pytest.approx(456, abs=2)
    assert 365 < lengths.min() < 400
    assert 515 < lengths.max() < 570
    assert (targets > SILENT).sum(dim=1).float().mean().item() == pytest.approx(29, abs=0.5)
    assert config.vocabulary == (symbols,)
    assert set(tokens.unique().tolist()) == {ABSENT, *range(symbols)}
    # of 26 classes some are rare
    assert 20 <= len(targets.unique()) - 1 <= NUM_CLASSES
    assert targets.max() < NUM_CLASSES


def assert_uniform(counts, choices):
    total = sum(counts.get(each, 0) for each in choices)
    assert total == sum(counts.values())
    allowed = 5 * (total / len(choices)) ** 0.5
    for each in choices:
        assert counts.get(each, 0) == pytest.approx(total / len(choices), abs=allowed)


def count(items):
    counts = {}
    for item in items:
        counts[item] = counts.get(item, 0) + 1
    return counts


def test_every_choice_is_uniform():
    config = CodeConfig(num_statements=30)
    programs = [statements_of(config, tokens) for tokens in make(config, 1000).tokens]
    assert {kind_of(program[0]) for program in programs} == {"assign"}
    assert {kind_of(program[-1]) for program in programs} == {"print"}
    assert {len(program) for program in programs} == {30}
    middle = [each for program in programs for each in program[1:-1]]
    assert_uniform(count(map(kind_of, middle)), KINDS)
    conditionals = [each for each in middle if each[0] == "if"]
    assert_uniform(count(kind_of(each[5:]) for each in conditionals), KINDS[:3])
    assert_uniform(count(each[2] for each in conditionals), "<>")
    assert_uniform(count(each[3] for each in conditionals), "0123456789")
    plain = [each for each in middle if each[0] != "if"] + [each[5:] for each in conditionals]
    assert_uniform(count(each[0] for each in plain if "=" in each), "xyz")
    assert_uniform(count(each[2] for each in plain if "=" in each), "0123456789")
    assert_uniform(count(each[1] for each in plain if kind_of(each) == "count"), ["++", "--"])


def test_a_variable_that_is_used_is_any_of_those_defined():
    config = CodeConfig(num_statements=8, num_variables=3)
    used = {2: [], 3: []}
    for tokens in make(config, 6000).tokens:
        program = statements_of(config, tokens)
        assigned = sorted({each[0] for each in program[:-1] if kind_of(each) == "assign"})
        risky = any(each[0] == "if" and "=" in each for each in program)
        if len(assigned) > 1 and not risky:
            used[len(assigned)].append(assigned.index(program[-1][1]))
    for number, places in used.items():
        assert len(places) > 500
        assert_uniform(count(places), range(number))


@pytest.mark.parametrize(
    ("value", "upwards", "after", "sign"),
    [
        (HIGHEST, True, HIGHEST - 1, "--"),
        (HIGHEST - 1, True, HIGHEST, "++"),
        (LOWEST, False, LOWEST + 1, "++"),
        (LOWEST + 1, False, LOWEST, "--"),
    ],
)
@pytest.mark.parametrize("executed", [True, False])
def test_values_stay_in_their_range(value, upwards, after, sign, executed):
    config = CodeConfig(num_variables=1)
    one, rank = torch.tensor([1]), torch.tensor([[0.5]])
    # `if x < 9 : x ++ ;` or with `>`, whichever holds or not
    holds_if_greater = torch.tensor([value > 9])
    draws = _Draws(
        kind=3 * one,
        inner_kind=one,
        bound=9 * one,
        greater=holds_if_greater if executed else ~holds_if_greater,
        constant=one,
        assigned=0 * one,
        upwards=torch.tensor([upwards]),
        tested_ranks=rank,
        used_ranks=rank,
    )
    before = _Variables(torch.tensor([[value]]), torch.tensor([[True]]))
    variables, tokens, target = _run(config, before, draws)
    assert variables.values.item() == (after if executed else value)
    assert target.item() == SILENT
    assert program_text(config, tokens[0]).split()[5:] == ["x", sign, ";"]


def test_every_program_is_another_and_a_seed_repeats_them():
    config, generator = CodeConfig(num_statements=12), torch.Generator().manual_seed(0)
    texts = {
        program_text(config, tokens)
        for _ in range(2)
        for tokens in code_batch(config, 200, generator).tokens
    }
    assert len(texts) == 400
    for ours, again in zip(make(config), make(config), strict=True):
        torch.testing.assert_close(ours, again, atol=0, rtol=0)
    assert not torch.equal(make(config).targets.unique(), make(config, seed=1).tokens)


def test_ten_variables_have_names():
    config = CodeConfig(num_variables=len(VARIABLES))
    assert set(program_text(config, make(config, 1).tokens[0]).split()) <= {*SYMBOLS, *VARIABLES}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_variables": 11}, "num_variables is 11; .* less than or equal to 10"),
        ({"num_variables": 0}, "num_variables is 0"),
        ({"num_statements": 1}, "num_statements is 1; .* greater than or equal to 2"),
        ({"num_variable": 3}, "did you mean 'num_variables'"),
    ],
)
def test_programs_that_cannot_be_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        validate(CodeConfig, values, "code")
