"""Code execution: read a program token by token and say what each print statement would print.

The task of Fan et al. (2021) as Irie et al. (2021) generate it: a few variables are assigned,
counted up and down, compared and printed, so that a memory must replace what it wrote, again and
again. Programs run while they are generated, all of a batch at once.

Note:
    The interpreter that labelled the published data ignores an assignment to a defined variable
    inside a conditional that holds; here it is executed, unless ``published_quirk`` asks.
"""

from typing import Annotated, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from fwrl.bench.sequence_model import ABSENT, NOT_ASKED, Batch
from fwrl.config import Config

# The range of a variable: counting that would leave it goes the other way.
LOWEST, HIGHEST = -8, 16
# Constants are digits.
NUM_DIGITS = 10
# The target where nothing is printed; the target of a printed value is ``value - LOWEST + 1``.
SILENT = 0
NUM_CLASSES = HIGHEST - LOWEST + 2

# The tokens, in the order of their numbers; the variables come last.
SYMBOLS = ("if", "print", "=", "++", "--", "<", ">", ":", ";", *map(str, range(NUM_DIGITS)))
VARIABLES = ("x", "y", "z", "a", "b", "c", "d", "e", "f", "g")
NumVariables = Annotated[int, Field(ge=1, le=len(VARIABLES))]
_NUMBER = {symbol: number for number, symbol in enumerate(SYMBOLS)}
_FIRST_DIGIT, _FIRST_VARIABLE = _NUMBER["0"], len(SYMBOLS)

# Kinds of statements. A conditional holds one of the other kinds.
_ASSIGN, _COUNT, _PRINT, _CONDITIONAL = range(4)


class CodeConfig(Config):
    """The programs to draw; the defaults are the published ones with three variables."""

    num_statements: int = Field(default=100, ge=2)
    """Statements in a program; the first is an assignment, the last a print."""
    num_variables: NumVariables = 3
    """Variables that a program may use; published: 3 and 5."""
    published_quirk: bool = False
    """Whether an assignment to a defined variable is ignored inside a conditional that holds."""

    @property
    def vocabulary(self) -> tuple[int, ...]:
        """How many tokens the one field has."""
        return (len(SYMBOLS) + self.num_variables,)


class _Draws(NamedTuple):
    """The random choices of one statement of each program, or of all: ``[N, B]``."""

    kind: Int[Tensor, "*N B"]
    # the kind of the statement inside a conditional
    inner_kind: Int[Tensor, "*N B"]
    # the constant that a conditional compares with
    bound: Int[Tensor, "*N B"]
    greater: Bool[Tensor, "*N B"]
    # the value that an assignment writes, and the variable
    constant: Int[Tensor, "*N B"]
    assigned: Int[Tensor, "*N B"]
    upwards: Bool[Tensor, "*N B"]
    # the condition and the statement each take the defined variable of the highest rank
    tested_ranks: Float[Tensor, "*N B V"]
    used_ranks: Float[Tensor, "*N B V"]


class _Variables(NamedTuple):
    """The memory of the running programs."""

    values: Int[Tensor, "B V"]
    defined: Bool[Tensor, "B V"]


def code_batch(config: CodeConfig, batch_size: int, generator: torch.Generator) -> Batch:
    """Independent programs and the values that they print, a class at each token.

    The generator is the only source of randomness; its device is the batch's.
    """
    draws = _draw(config, batch_size, generator)
    variables = _Variables(
        torch.zeros_like(draws.used_ranks[0], dtype=torch.long),
        torch.zeros_like(draws.used_ranks[0], dtype=torch.bool),
    )
    statements: list[Tensor] = []
    printed: list[Tensor] = []
    for one in zip(*draws, strict=True):
        variables, tokens, target = _run(config, variables, _Draws(*one))
        statements.append(tokens)
        printed.append(target)
    return _close_gaps(torch.stack(statements, dim=1), torch.stack(printed, dim=1))


def _draw(config: CodeConfig, batch_size: int, generator: torch.Generator) -> _Draws:
    shape = (config.num_statements, batch_size)

    def below(size: int) -> Tensor:
        return torch.randint(size, shape, generator=generator, device=generator.device)

    def ranks() -> Tensor:
        full = (*shape, config.num_variables)
        return torch.rand(full, generator=generator, device=generator.device)

    kind = below(4)
    kind[0], kind[-1] = _ASSIGN, _PRINT
    return _Draws(
        kind=kind,
        inner_kind=below(3),
        bound=below(NUM_DIGITS),
        greater=below(2) == 1,
        constant=below(NUM_DIGITS),
        assigned=below(config.num_variables),
        upwards=below(2) == 1,
        tested_ranks=ranks(),
        used_ranks=ranks(),
    )


def _run(
    config: CodeConfig, variables: _Variables, draws: _Draws
) -> tuple[_Variables, Int[Tensor, "B 9"], Int[Tensor, " B"]]:
    """Run one statement of each program: the variables after it, its tokens, its target."""
    values, defined = variables
    conditional = draws.kind == _CONDITIONAL
    kind = torch.where(conditional, draws.inner_kind, draws.kind)
    tested = _one_defined(draws.tested_ranks, defined)
    value = _at(values, tested)
    holds = torch.where(draws.greater, value > draws.bound, value < draws.bound)
    executed = ~conditional | holds

    assigns = kind == _ASSIGN
    used = torch.where(assigns, draws.assigned, _one_defined(draws.used_ranks, defined))
    value = _at(values, used)
    upwards = (draws.upwards & (value < HIGHEST)) | (value <= LOWEST)
    counted = torch.where(kind == _COUNT, value + torch.where(upwards, 1, -1), value)
    target = torch.where(executed & (kind == _PRINT), value - LOWEST + 1, SILENT)

    takes_effect = executed
    if config.published_quirk:
        takes_effect = executed & ~(conditional & assigns & _at(defined, used))
    value = torch.where(takes_effect, torch.where(assigns, draws.constant, counted), value)
    values = values.scatter(1, used.unsqueeze(1), value.unsqueeze(1))
    now_defined = _at(defined, used) | (takes_effect & assigns)
    defined = defined.scatter(1, used.unsqueeze(1), now_defined.unsqueeze(1))
    tokens = _tokens(draws, conditional, tested, kind, used, upwards)
    return _Variables(values, defined), tokens, target


def _one_defined(ranks: Float[Tensor, "B V"], defined: Bool[Tensor, "B V"]) -> Int[Tensor, " B"]:
    """A defined variable, each equally likely; where none is defined the first, which is unused."""
    return ranks.masked_fill(~defined, -1).argmax(dim=1)


def _at(table: Tensor, variable: Int[Tensor, " B"]) -> Tensor:
    return table.gather(1, variable.unsqueeze(1)).squeeze(1)


def _tokens(
    draws: _Draws,
    conditional: Bool[Tensor, " B"],
    tested: Int[Tensor, " B"],
    kind: Int[Tensor, " B"],
    used: Int[Tensor, " B"],
    upwards: Bool[Tensor, " B"],
) -> Int[Tensor, "B 9"]:
    """Nine places with gaps: ``if v < c :`` or nothing, then ``v = c ;`` or a shorter statement."""

    def symbol(name: str) -> Tensor:
        return torch.full_like(kind, _NUMBER[name])

    def choose(condition: Tensor, yes: Tensor, no: Tensor | int = ABSENT) -> Tensor:
        return torch.where(condition, yes, no)

    variable, constant = _FIRST_VARIABLE + used, _FIRST_DIGIT + draws.constant
    prints, counts, assigns = kind == _PRINT, kind == _COUNT, kind == _ASSIGN
    sign = choose(upwards, symbol("++"), symbol("--"))
    parts = [
        choose(conditional, symbol("if")),
        choose(conditional, _FIRST_VARIABLE + tested),
        choose(conditional, choose(draws.greater, symbol(">"), symbol("<"))),
        choose(conditional, _FIRST_DIGIT + draws.bound),
        choose(conditional, symbol(":")),
        choose(prints, symbol("print"), variable),
        choose(prints, variable, choose(counts, sign, symbol("="))),
        choose(assigns, constant),
        symbol(";"),
    ]
    return torch.stack(parts, dim=1)


def _close_gaps(statements: Int[Tensor, "B N 9"], printed: Int[Tensor, "B N"]) -> Batch:
    """Move the gaps to the end; the last token of each statement bears its target."""
    targets = torch.full_like(statements, SILENT)
    targets[:, :, -1] = printed
    tokens, targets = statements.flatten(1), targets.flatten(1)
    given = tokens != ABSENT
    length = given.sum(dim=1)
    # a stable sort keeps the order of the tokens
    order = (~given).long().argsort(dim=1, stable=True)[:, : int(length.max())]
    behind = torch.arange(order.shape[1], device=tokens.device) >= length.unsqueeze(1)
    return Batch(
        tokens.gather(1, order).masked_fill(behind, ABSENT),
        targets.gather(1, order).masked_fill(behind, NOT_ASKED),
    )
