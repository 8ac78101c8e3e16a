"""Delta RNN (Irie et al. 2021): a recurrent network both of whose weight matrices are fast."""

from functools import partial
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from fwrl.config import Count, head_size
from fwrl.core import About, MemoryCoreConfig
from fwrl.cores.parts.fast_recurrence import FastNetwork, FastRecurrence, Units
from fwrl.feature_maps import softmax


class DeltaRNNConfig(MemoryCoreConfig):
    """A recurrent network with fast weights; the second version is that of the main results."""

    about: ClassVar[About] = About(
        update="W, R <- delta rule from x, y <- q W + softmax(y) R",
        cost="6D^2 + 6HKV",
        parallel=False,
        source="Irie et al. 2021",
    )
    kind: Literal["delta_rnn"] = "delta_rnn"
    heads: Count = 4
    """Heads, each with fast weights of its own; a divisor of the input size."""
    version: Literal[1, 2] = 2
    """1 applies the softmax to the sum, y <- softmax(q W + y R); 2 only to the recurrent query."""
    feature_map: Literal["elu_plus_one", "softmax"] = "elu_plus_one"
    """Map of the keys and queries of W; the published agents for games took softmax."""
    scale_output: bool = False
    """Divides what heads return by the root of their size, as the published language models."""

    @override
    def build(self, input_size: int) -> FastRecurrence:
        """The core for inputs of this size; its state holds the last output as its only units."""
        size = head_size(self.kind, input_size, self.heads)
        squash = self.version == 2
        network = FastNetwork(partial(_advance, self.version), squash=squash, native=squash)
        return FastRecurrence(input_size, size, network, self.feature_map, self.scale_output)


def _advance(
    version: int, forward: Float[Tensor, "B H V"], back: Float[Tensor, "B H V"], _: Units
) -> tuple[Float[Tensor, "B H V"], Units]:
    y = forward + back
    if version == 1:
        y = softmax(y)
    return y, (y,)
