"""The delta family with a decay for each key feature in C: sequential in time, on CPUs."""

from typing import NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor

from fwrl.kernels.chunked.channelwise import gated
from fwrl.kernels.native.loop import Loop
from fwrl.kernels.native.operators import register
from fwrl.state import FastWeights
from fwrl.update_rules import Rule, Write


class ChannelScan(NamedTuple):
    """A sequence of writes that remove at one key and add at another."""

    query: Float[Tensor, "B T H K"]
    key: Float[Tensor, "B T H K"]
    value: Float[Tensor, "B T H V"]
    # where what is removed is looked up, before the decay
    look: Float[Tensor, "B T H K"]
    decay: Float[Tensor, "B T H K"]
    # where it is taken from; None: from the key
    taken: Float[Tensor, "B T H K"] | None
    state: Float[Tensor, "B H K V"]
    # F is 1 or B
    fresh: Float[Tensor, "F H K V"] | None
    starts: Bool[Tensor, "B T"] | None


LOOP = Loop(
    name="channel_scan",
    inputs=ChannelScan,
    sizes={"keys": "K", "values": "V", "fresh_streams": "F"},
    products="B T H K V",
    outputs={"output": "B T H V", "end": "B H K V"},
    saved={"removed": "B T H V", "checkpoints": "B H N K V"},
    # C fills one for each stream, whoever shares a fresh state
    buffers={"fresh": "B H K V"},
    in_torch={"fresh": lambda inputs, _, found: found["fresh"].sum_to_size(inputs.fresh.shape)},
    strided=("query", "key", "value", "look", "decay"),
)
_run = register(LOOP)


def channel_scan(
    rule: Rule,
    state: FastWeights,
    query: Float[Tensor, "B T H K"],
    write: Write,
    starts: Bool[Tensor, "B T"] | None = None,
    fresh: Float[Tensor, "#B H K V"] | None = None,
) -> tuple[Float[Tensor, "B T H V"], FastWeights]:
    """The reference scan up to rounding, in float32, under a rule with a decay for each feature."""
    assert write.decay is not None, "these rules need decay"
    taken, decay = None, write.decay.expand_as(write.key)
    if rule.form == "removal":
        assert write.removal_key is not None, "the generalised delta rule needs a removal key"
        assert write.removal_rate is not None, "the generalised delta rule needs a removal rate"
        look, taken = write.removal_key, write.removal_rate * write.removal_key
    else:
        write = gated(rule, write)
        assert write.removal_rate is not None, "an error needs gates"
        look = decay * write.removal_rate * write.key
    values, end = _run(
        ChannelScan(query, write.key, write.value, look, decay, taken, state, fresh, starts)
    )
    return values, end
