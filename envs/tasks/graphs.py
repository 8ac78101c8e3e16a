"""Random graphs of five places and three means of transport, and the 1,200 published ones."""

from collections.abc import Callable
from functools import cache

import numpy as np
from jaxtyping import Int

NUM_PLACES = 5
NUM_TRANSPORTS = 3
# the destination of a transport that does not serve a place
NOWHERE = -1

# the destination of each transport from each place, integers of shape [3, 5]
Graph = Int[np.ndarray, "transports places"]

PUBLISHED_SEED = 666
GRAPHS_PER_SPLIT = 600


def random_graph(below: Callable[[int], int]) -> Graph:
    """A graph in which every place can be reached from every other.

    Each place gets a way out, then each place gets one more way in; a graph with places that cannot
    be reached is thrown away.

    Args:
        below: Draws a uniform integer in [0, n), given n.
    """
    while True:
        graph = np.full((NUM_TRANSPORTS, NUM_PLACES), NOWHERE)
        for place in range(NUM_PLACES):
            other = below(NUM_PLACES - 1)
            graph[below(NUM_TRANSPORTS), place] = other + (other >= place)
        for place in range(NUM_PLACES):
            unused = np.argwhere(graph == NOWHERE)
            unused = unused[unused[:, 1] != place]
            transport, origin = unused[below(len(unused))]
            graph[transport, origin] = place
        if is_connected(graph):
            return graph


def is_connected(graph: Graph) -> bool:
    """Whether every place can be reached from every place, itself included, in some steps."""
    reached = (graph[:, :, None] == np.arange(NUM_PLACES)).any(axis=0)
    for _ in range(NUM_PLACES):
        reached = reached @ reached
    return bool(reached.all())


@cache
def published_graphs() -> dict[str, Int[np.ndarray, "graphs transports places"]]:
    """The 600 graphs of each split, equal to those of the published experiments.

    The test graphs are drawn first; no training graph is one of them.
    """
    below = np.random.RandomState(PUBLISHED_SEED).randint
    test = [random_graph(below) for _ in range(GRAPHS_PER_SPLIT)]
    unseen = [unseen_graph(below, np.stack(test)) for _ in range(GRAPHS_PER_SPLIT)]
    graphs = {"train": np.stack(unseen), "test": np.stack(test)}
    for array in graphs.values():
        # all callers share the array
        array.flags.writeable = False
    return graphs


def unseen_graph(
    below: Callable[[int], int], seen: Int[np.ndarray, "graphs transports places"]
) -> Graph:
    """A random graph that is none of ``seen``."""
    while True:
        graph = random_graph(below)
        if not (seen == graph).all(axis=(1, 2)).any():
            return graph
