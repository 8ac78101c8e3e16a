"""The page of the tasks; run by itself, this draws its picture: docs/tasks.png."""

import inspect
import re
from pathlib import Path
from typing import Any

import numpy as np
from as_markdown import paragraphs, plain, table
from gymnasium import spaces
from PIL import Image, ImageDraw, ImageFont

from envs.tasks import TASKS, BatchedTask, make_env
from envs.tasks.cart_pole import PositionOnlyCartPole
from envs.tasks.drawing.canvas import HEIGHT, INK, PAPER, WIDTH
from envs.tasks.question_task import QuestionTask

ROOT = Path(__file__).resolve().parent.parent

TASK_PAGE = """# The tasks

What comes with fwrl: tasks of memory that step many environments together, as NumPy arrays. Every
one has a Gymnasium id, and options that are the same everywhere:

```
fwrl train configs/memory/repeat_previous_easy.yaml env.options.k=2
fwrl check-env fwrl/RepeatPrevious-v0 options.level=hard
```

In Python `gymnasium.make("fwrl/RepeatPrevious-v0", level="hard")` and `gymnasium.make_vec` make
them, after `envs.tasks.register()`.

![Each task as its videos show it](tasks.png)

POPGym's are equal to its package, transition by transition, from the same seed; the cart-poles up
to rounding. What an agent sees is less than a picture shows. Atari, MiniGrid, the rest of POPGym
and every other Gymnasium id are environments too: `fwrl list envs` names them, and
[environments.md](environments.md) says what is expected of yours. This page is made by
`docs/generate.py`.

{sections}
"""


def tasks_page() -> str:
    """Every task of our own, by what it has in common with others."""
    families: dict[type[BatchedTask], list[str]] = {}
    for name, task in TASKS.items():
        families.setdefault(task.__mro__[1], []).append(name)
    sections: list[str] = []
    for family, title in FAMILIES.items():
        about = [] if family is BatchedTask else paragraphs(family)
        sections += [f"## {title}", *about]
        for name in families.pop(family):
            sections += [f"### {name}", *_task(name)]
    assert not families, "a family of tasks without a title"
    return TASK_PAGE.format(sections="\n\n".join(sections))


FAMILIES: dict[type[BatchedTask], str] = {
    QuestionTask: "Questions about what was shown",
    PositionOnlyCartPole: "Position without velocity",
    BatchedTask: "Finding out by acting",
}


def _task(name: str) -> list[str]:
    task = TASKS[name]
    options = _arguments(task)
    rows = [(f"`{option}`", meaning) for option, meaning in options.items() if option != "num_envs"]
    configs = sorted((ROOT / "configs").rglob("*.yaml"), key=_by_level)
    own = [
        path for path in configs if re.search(rf"^  id: fwrl/{name}-v0$", path.read_text(), re.M)
    ]
    links = ", ".join(f"[{path.stem}](../{path.relative_to(ROOT)})" for path in own)
    levels = [_level(task, level) for level in LEVELS] if "level" in options else []
    head = ("level", "observation", "actions", "steps at most")
    return [
        *paragraphs(task),
        *([table(head, levels)] if levels else []),
        table(("option", "meaning"), rows),
        f"Configurations: {links}.",
    ]


LEVELS = ("easy", "medium", "hard")


def _by_level(path: Path) -> tuple[int, str]:
    name, _, level = path.stem.rpartition("_")
    return (LEVELS.index(level), name) if level in LEVELS else (len(LEVELS), path.stem)


def _level(task: Any, level: str) -> tuple[str, ...]:
    made = task(level=level)
    actions, space = made.action_space, made.observation_space
    steps = made.length if isinstance(made, QuestionTask) else made.max_steps
    return level, _space(space), str(actions.n), str(steps)


def _space(space: spaces.Space[Any]) -> str:
    """The parts of an observation, in few words."""
    match space:
        case spaces.Discrete():
            return f"one of {space.n}"
        case spaces.MultiDiscrete() if len(set(space.nvec)) == 1:
            return f"{len(space.nvec)} numbers, each one of {space.nvec[0]}"
        case spaces.MultiDiscrete():
            return " and ".join(f"one of {count}" for count in space.nvec)
        case spaces.Tuple():
            return " and ".join(_space(part) for part in space.spaces)
        case _:
            return f"{space.shape[0] if space.shape else 1} real numbers"


def _arguments(task: type[BatchedTask]) -> dict[str, str]:
    """The description of each argument, from the docstring."""
    _, _, block = (inspect.getdoc(task.__init__) or "").partition("Args:\n")
    found = re.findall(r"^    (\w+): (.*(?:\n        .*)*)", block, re.M)
    return {name: plain(meaning) for name, meaning in found}


COLUMNS, CAPTION, GAP = 4, 30, 12
# where the easiest level shows little
OPTIONS = {
    "ColorCubes": {"grid_size": 4, "num_cubes": 5},
    "Concentration": {"level": "hard"},
    "EndlessTMaze": {"corridor_length": 6},
    "TMaze": {"corridor_length": 8},
}
STEPS = {
    "Autoencode": 54,
    "ColorCubes": 3,
    "Concentration": 41,
    "EndlessTMaze": 2,
    "KeyValueRecall": 10,
    "TMaze": 4,
}
# the way through a maze, and no cube taken
ACTIONS = {"TMaze": 3, "EndlessTMaze": 2, "ColorCubes": 2}


def picture(name: str) -> Image.Image:
    """A picture of a task after some random actions."""
    env = make_env(name, "rgb_array", **OPTIONS.get(name, {}))
    env.reset(seed=4)
    generator = np.random.default_rng(2)
    actions: Any = env.action_space
    for _ in range(STEPS.get(name, 9)):
        env.step(ACTIONS.get(name, generator.integers(actions.n)))
    drawn = env.render()
    assert drawn is not None
    return Image.fromarray(drawn)


def main() -> None:
    """All of them, with their names above."""
    rows = -(-len(TASKS) // COLUMNS)
    size = (COLUMNS * (WIDTH + GAP) + GAP, rows * (HEIGHT + CAPTION + GAP) + GAP)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for number, name in enumerate(TASKS):
        row, column = divmod(number, COLUMNS)
        x, y = GAP + column * (WIDTH + GAP), GAP + row * (HEIGHT + CAPTION + GAP)
        draw.text((x, y), name, INK, ImageFont.load_default(18))
        draw.rectangle(
            (x - 1, y + CAPTION - 1, x + WIDTH, y + CAPTION + HEIGHT), PAPER, "lightgray"
        )
        sheet.paste(picture(name), (x, y + CAPTION))
    sheet.save(Path(__file__).parent / "tasks.png", optimize=True)


if __name__ == "__main__":
    main()
