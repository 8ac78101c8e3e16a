"""The published curves of the graph task: moving averages in the authors' logs, one seed each."""

from fwrl.bench.benchmark import Row

# of the published agents, and of those who know the graphs or choose at random
UPDATES = (50, 1_000, 5_000, 10_000, 20_000, 30_000, 50_000)
TEST_RETURNS = {
    "fast_weight_memory": (45.5, 49.3, 53.5, 77.5, 96.8, 101.7, 106.2),
    "lstm 512": (45.5, 49.3, 51.4, 52.9, 52.7, 53.3, 54.2),
    "lstm 1024": (46.1, 50.1, 51.9, 53.1, 54.1, 56.8, 80.5),
    "lstm 2048": (45.5, 50.9, 52.9, 53.4, 54.9, 62.4, 82.7),
    "lstm 4096": (45.4, 50.2, 52.8, 53.3, 53.5, 55.0, 82.4),
}
TRAIN_RETURNS = {
    "fast_weight_memory": (45.8, 49.8, 55.0, 78.6, 98.4, 104.0, 109.5),
    "lstm 1024": (45.6, 50.8, 52.8, 53.9, 55.8, 60.6, 101.4),
}
STEPS_PER_UPDATE = 600 * 30

# Knowing the graph and walking the shortest ways, and choosing at random, on the test graphs.
SHORTEST_WAYS, AT_RANDOM = 165.2, 45.3


def _row(method: str, index: int) -> Row:
    row: Row = {
        "method": method,
        "updates": UPDATES[index],
        "environment_steps": UPDATES[index] * STEPS_PER_UPDATE,
        "test_return": TEST_RETURNS[method][index],
    }
    if method in TRAIN_RETURNS:
        row["train_return"] = TRAIN_RETURNS[method][index]
    return row


PUBLISHED: tuple[Row, ...] = tuple(
    _row(method, index) for method in TEST_RETURNS for index in range(len(UPDATES))
)
