"""Small trainings, comparisons, searches and benchmarks, as files and words of commands."""

TRAINING = """
env: {id: fwrl/RepeatPrevious-v0, num_envs: 2}
stack: {width: 8}
core: {heads: 1}
ppo: {num_steps: 8, minibatches: 1, epochs: 1}
evaluation: {every_steps: 32, episodes: 1, num_envs: 1}
total_steps: 32
"""
TABLE = """
tasks: {easy: {config: base.yaml}}
columns: {none: [core.kind=none]}
seeds: [0]
total_steps: 32
episodes: 1
transfer: {far: [env.options.num_decks=2]}
"""
SEARCH = """
config: base.yaml
space: {ppo.epochs: {choices: [1]}}
total_steps: 32
trials: 1
"""
FILES = {"base.yaml": TRAINING, "table.yaml": TABLE, "search.yaml": SEARCH}
STORIES = ["methods=[none]", "training.steps=2", "train_bytes=20000", "sample=3"]
TRAIN = ["train", "base.yaml", "--run-dir", "out"]
BENCH = ["bench", "lm", "--preset", "smoke", "--jobs", 1, "--out", "out", *STORIES]
COMPARE = ["compare", "table.yaml", "--jobs", 1, "--out", "out"]
TUNE = ["tune", "search.yaml", "--jobs", 1, "--out", "out"]


def write_files(folder):
    """Write the configurations that the commands name."""
    for name, text in FILES.items():
        (folder / name).write_text(text)
