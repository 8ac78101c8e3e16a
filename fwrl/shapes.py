"""The letters that annotations use for axes, one meaning each in the whole project.

Batch first everywhere: there is no transpose of batch and time anywhere.

======  ==========================================================================
letter  axis
======  ==========================================================================
``B``   streams in a batch (``N`` in ``agents`` and ``envs``: environments)
``T``   time steps
``C``   time steps in one chunk of a chunked kernel
``D``   features of a layer's input
``E``   features of a layer's output
``H``   heads
``K``   features of a key or query, after the feature map: the rows of the fast weights
``V``   size of a value: the columns of the fast weights
``M``   features that a feature map makes of its input
``A``   numbers that describe one action, or its logits
``F``   fields of the tokens at one time
``P``   processes that train together
======  ==========================================================================
"""

from jaxtyping import Float
from torch import Tensor

# What a stream has written so far. A query reads it by ``query @ weights``.
FastWeights = Float[Tensor, "B H K V"]
