"""The memory cores. A new one is a file beside this one, a line in ``CORES`` and its union."""

from typing import Annotated

from pydantic import Field

from fwrl.cores.fast_weight import FastWeightConfig
from fwrl.cores.gru import GRUConfig
from fwrl.cores.lstm import LSTMConfig
from fwrl.cores.none import NoMemoryConfig

AnyCoreConfig = FastWeightConfig | LSTMConfig | GRUConfig | NoMemoryConfig

# The configuration of one core; ``kind`` says of which.
CoreConfig = Annotated[AnyCoreConfig, Field(discriminator="kind")]

CORES: dict[str, type[AnyCoreConfig]] = {
    "fast_weight": FastWeightConfig,
    "lstm": LSTMConfig,
    "gru": GRUConfig,
    "none": NoMemoryConfig,
}
