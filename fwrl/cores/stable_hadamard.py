"""Stable Hadamard memory: every weight decays or grows by a factor of its own."""

from typing import ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from typing_extensions import override

from fwrl.config import Size
from fwrl.core import About, MemoryCore, MemoryCoreConfig
from fwrl.feature_maps import normalise
from fwrl.kernels.associative_scan import linear_recurrence
from fwrl.state import at_least_float32, time_in_episode, without_autocast

# Time steps after which the sequence of rows begins again.
CYCLE = 1024


class StableHadamardConfig(MemoryCoreConfig):
    """Stable Hadamard Memory (Le et al. 2024).

    The rows ``theta`` of a table change from time to time without regard to the input, so that
    factors do not conspire and their products over time stay near 1 in the mean.

    Note:
        The published row is drawn at random at each time, so that collecting and learning
        compute different things; in one published version it is always the first row, and the
        products explode or vanish. Here the rows follow a sequence that is drawn at construction
        and saved with the weights; the time in the episode, a part of the state, says where in it
        an episode is.

        Left out: the normalisation of the input and the shortcut past the memory, which are those
        of the stack, and the bound on the weights that one published version has: it would make
        the recurrence nonlinear, and with the initial weights the products stay far from the end
        of single precision. Nothing bounds them after training.
    """

    about: ClassVar[About] = About(
        update="M <- (1 + tanh(c theta[t]^T)) * M + eta k v^T, y = q M; c, eta, k, v, q from x",
        cost="5DS + 4S^2",
        parallel=True,
        source="Le et al. 2024",
    )
    kind: Literal["stable_hadamard"] = "stable_hadamard"
    memory_size: Size = 24
    """Size S of keys and of values."""
    rows: Size = 128
    """Rows of the learned table of factors."""

    @override
    def build(self, input_size: int) -> "StableHadamard":
        return StableHadamard(input_size, self)


class State(NamedTuple):
    """The weights, and the place of the episode in the sequence of rows."""

    weights: Float[Tensor, "B K V"]
    seen: Float[Tensor, " B"]


class StableHadamard(MemoryCore[State]):
    """The weights in its state have K = V = the memory size."""

    sequence: Tensor
    remark = "it strengthens and weakens each weight by a factor of its own"

    def __init__(self, input_size: int, config: StableHadamardConfig) -> None:
        super().__init__()
        self.input_size = self.output_size = input_size
        self.memory_size = size = config.memory_size
        # queries, keys, values, calibrations; write strength
        self.project = nn.Linear(input_size, 4 * size + 1, bias=False)
        self.theta = nn.Parameter(nn.init.xavier_uniform_(torch.empty(config.rows, size)))
        self.register_buffer("sequence", torch.randint(config.rows, (CYCLE,)))
        self.output = nn.Linear(size, input_size)

    @override
    def initial_state(self, batch_size: int, device: torch.device | None = None) -> State:
        size = self.memory_size
        weights = torch.zeros(batch_size, size, size, device=device)
        return State(weights, torch.zeros(batch_size, device=device))

    @override
    def unroll(
        self, x: Float[Tensor, "B T D"], state: State, starts: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B T E"], State]:
        projected = at_least_float32(self.project(x))
        query, key, value, calibration = projected[..., :-1].chunk(4, dim=-1)
        query, key = (normalise(address.relu(), "sum") for address in (query, key))
        value = projected[..., -1:].sigmoid() * value
        seen = time_in_episode(starts, state.seen)
        factor = self.factors(calibration, seen)
        addend = key.unsqueeze(-1) * value.unsqueeze(-2)
        weights = linear_recurrence(factor, addend, state.weights, starts)
        with without_autocast(x.device):
            read = (query.unsqueeze(-2) @ weights).squeeze(-2)
        # a count that ran on would one day be too large to go up by one
        return self.output(read), State(weights[:, -1].clone(), seen[:, -1] % CYCLE)

    def factors(
        self, calibration: Float[Tensor, "B T K"], time: Float[Tensor, "B T"]
    ) -> Float[Tensor, "B T K V"]:
        """The factor of each weight at these time steps of an episode, in (0, 2)."""
        theta = self.theta[self.sequence[time.long() % CYCLE]]
        return 1.0 + torch.tanh(calibration.unsqueeze(-1) * theta.unsqueeze(-2))
