"""Pictures of the tasks, for videos of agents.

A task describes the scene; nothing here knows the rules of a task.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from envs.tasks.drawing.canvas import (
    BLUE,
    FAINT,
    GRAY,
    GREEN,
    INK,
    MARGIN,
    NOTE_Y,
    PALE_BLUE,
    PALE_GREEN,
    PAPER,
    RED,
    WHITE,
    WIDTH,
    Canvas,
    Color,
    Picture,
    Point,
    Real,
)


class Card(NamedTuple):
    """A card on the table: a symbol, and the caption below it."""

    symbol: str
    caption: str


class Answer(NamedTuple):
    """The agent's last answer, and the right one; None if nothing was asked."""

    given: str
    right: str | None


def table(title: str, cards: Sequence[Card], answer: Answer | None, time_left: Real) -> Picture:
    """Cards side by side and the last answer below them, if there was one."""
    canvas = Canvas(title, time_left)
    width, height, gap, top = 84, 104, 32, 48
    left = (WIDTH - len(cards) * (width + gap) + gap) / 2
    for number, card in enumerate(cards):
        x = left + number * (width + gap)
        edge = BLUE if card.symbol == "?" else GRAY
        canvas.box((x, top), (width, height), WHITE, edge, radius=9)
        canvas.symbol((x + width / 2, top + height / 2), card.symbol, 25)
        canvas.text((x + width / 2, top + height + 14), card.caption, 12, GRAY)
    if answer is not None:
        _draw_answer(canvas, answer)
    return canvas.pixels()


def _draw_answer(canvas: Canvas, answer: Answer) -> None:
    right = answer.given == answer.right
    asked = answer.right is not None
    x = WIDTH / 2 + (12 if right else -36 if asked else 32)
    canvas.text((x - 44, NOTE_Y), "answered" if asked else "not counted:", 13, GRAY)
    canvas.symbol((x + 8, NOTE_Y), answer.given, 10)
    if answer.right is None:
        return
    canvas.mark((x + 40, NOTE_Y), right)
    if not right:
        canvas.text((x + 94, NOTE_Y), "it was", 13, GRAY)
        canvas.symbol((x + 136, NOTE_Y), answer.right, 10)


class PairsTable(NamedTuple):
    """Cards in rows of thirteen, face down but for those of this turn and the pairs found."""

    symbols: Sequence[str]
    matched: Bool[np.ndarray, " cards"]
    turned: Int[np.ndarray, "2"]
    """The places of this turn's cards; -1 where there is none."""
    time_left: Real


def table_of_pairs(pairs: PairsTable) -> Picture:
    """All cards of a game of pairs; those of this turn have a blue edge."""
    canvas = Canvas("Find the pairs", pairs.time_left)
    columns, top, bottom = 13, 42, 196
    width = (WIDTH - 2 * MARGIN) / columns
    height = (bottom - top) / (len(pairs.symbols) // columns)
    gap = min(4, 0.3 * height)
    size = (width - gap, height - gap)
    for place, symbol in enumerate(pairs.symbols):
        row, column = divmod(place, columns)
        corner = (MARGIN + column * width + gap / 2, top + row * height + gap / 2)
        turned = place in pairs.turned
        found = bool(pairs.matched[place])
        face = PALE_GREEN if found else WHITE if turned else FAINT
        canvas.box(corner, size, face, BLUE if turned else None, radius=3)
        if found or turned:
            middle = (corner[0] + size[0] / 2, corner[1] + size[1] / 2)
            canvas.symbol(middle, symbol, min(5.5, 0.4 * size[1]))
    num_pairs = len(pairs.symbols) // 2
    note = f"{np.count_nonzero(pairs.matched) // 2} of {num_pairs} pairs"
    canvas.text((WIDTH / 2, NOTE_Y + 8), note, 13, GRAY)
    return canvas.pixels()


# width of the maze's corridor and of its arms, which are twice as long
SIDE, CORRIDOR_Y = 30, 116
# squares are separated by lines if they are at least this wide
NARROWEST = 8


class Maze(NamedTuple):
    """A T-maze with an agent in one of its squares; the arms are 0, above, and 1, below."""

    squares: int
    """From the start to the junction, both included."""
    position: int
    cue: int
    """The right arm."""
    note: str
    """Where the agent is, in words."""
    cue_is_seen: bool
    """Whether the agent sees the cue now."""
    arm: int | None
    """The arm that the agent turned into; None before its turn."""
    time_left: Real


def t_maze(maze: Maze) -> Picture:
    """The corridor with the sign at its start, the arms at its end, and the agent.

    The corridor is as wide as the picture at most, however many squares it has.
    """
    canvas = Canvas("Turn at the end as the sign said", maze.time_left)
    steps = maze.squares - 1
    pitch = min(SIDE, (WIDTH - 2 * MARGIN - SIDE) / steps)
    squares = WIDTH / 2 + pitch * (np.arange(maze.squares) - steps / 2)
    _draw_corridor(canvas, squares, maze.cue)
    _draw_sign(canvas, float(squares[0]), maze)
    if maze.arm is None:
        canvas.disc((float(squares[maze.position]), CORRIDOR_Y), 9, BLUE)
        canvas.text((WIDTH / 2, NOTE_Y), maze.note, 13, GRAY)
    else:
        right = maze.arm == maze.cue
        y = CORRIDOR_Y + SIDE * (1.5 if maze.arm else -1.5)
        canvas.disc((float(squares[-1]), y), 9, GREEN if right else RED)
        canvas.mark((WIDTH / 2, NOTE_Y), right)
    return canvas.pixels()


def _draw_corridor(canvas: Canvas, squares: Float[np.ndarray, " squares"], cue: int) -> None:
    start, end = float(squares[0]) - SIDE / 2, float(squares[-1]) - SIDE / 2
    top, upper_end = CORRIDOR_Y - SIDE / 2, CORRIDOR_Y - 2.5 * SIDE
    corridor, shaft = (end + SIDE - start, SIDE), (SIDE, 5 * SIDE)
    # white boxes on larger grey ones leave the walls
    for (x, y), (width, height) in (((start, top), corridor), ((end, upper_end), shaft)):
        canvas.box((x - 2, y - 2), (width + 4, height + 4), GRAY)
    canvas.box((end, upper_end), shaft, WHITE)
    canvas.box((end, top + (SIDE if cue else -2 * SIDE)), (SIDE, 2 * SIDE), PALE_GREEN)
    canvas.box((start, top), corridor, WHITE)
    between = (squares[1:] + squares[:-1]) / 2
    if squares[1] - squares[0] >= NARROWEST:
        for x in between:
            canvas.line([(x, top), (x, top + SIDE)], FAINT, 1)


def _draw_sign(canvas: Canvas, x: float, maze: Maze) -> None:
    """The cue on a post at the start: blue while the agent sees it."""
    y = CORRIDOR_Y - SIDE / 2 - 26
    color = BLUE if maze.cue_is_seen else FAINT
    canvas.line([(x, y), (x, y + 24)], color)
    canvas.box((x - 12, y - 14), (24, 28), WHITE, color, radius=4)
    length = 9 if maze.cue else -9
    canvas.arrow((x, y - length), (x, y + length), color)


# the side of a grid, and the colours of its cubes, told apart by the colour-blind (Okabe and Ito
# 2008), in the order of their numbers
GRID_SIDE, GRID_TOP = 152, 42
CUBE_COLORS: tuple[Color, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (204, 121, 167),
    (0, 158, 115),
    (240, 228, 66),
    (213, 94, 0),
    (0, 114, 178),
    (90, 90, 90),
)


class Cubes(NamedTuple):
    """A square grid with cubes on some of its cells, which are numbered row by row."""

    grid_size: int
    cells: Sequence[int]
    """The cell of each cube."""
    colors_are_seen: bool
    """Whether the agent sees the cubes in their colours now."""
    cells_are_seen: bool
    """Whether the agent sees where cubes lie now; where it does not, they are drawn small."""
    agent: int
    target: int
    """The number of the cube that is wanted."""
    right: bool | None
    """Whether the cube just taken was the right one; None if none was taken."""
    note: str
    time_left: Real


def cubes_on_grid(cubes: Cubes) -> Picture:
    """The grid with its cubes and the agent, and beside it the cube that is wanted."""
    canvas = Canvas("Take the cube of this colour", cubes.time_left)
    pitch = GRID_SIDE / cubes.grid_size
    left = MARGIN + 28
    canvas.box((left - 1, GRID_TOP - 1), (GRID_SIDE + 2, GRID_SIDE + 2), WHITE, GRAY)
    for number in range(1, cubes.grid_size):
        x, y = left + number * pitch, GRID_TOP + number * pitch
        canvas.line([(x, GRID_TOP), (x, GRID_TOP + GRID_SIDE)], FAINT, 1)
        canvas.line([(left, y), (left + GRID_SIDE, y)], FAINT, 1)

    def middle(cell: int) -> Point:
        row, column = divmod(cell, cubes.grid_size)
        return left + (column + 0.5) * pitch, GRID_TOP + (row + 0.5) * pitch

    for number, cell in enumerate(cubes.cells):
        _draw_cube(canvas, middle(cell), (0.62 if cubes.cells_are_seen else 0.3) * pitch, number)
        if cubes.cells_are_seen and not cubes.colors_are_seen:
            canvas.disc(middle(cell), 0.12 * pitch, FAINT)
    edge = {None: BLUE, True: GREEN, False: RED}[cubes.right]
    x, y = middle(cubes.agent)
    half = 0.42 * pitch
    corners = [(x - half, y - half), (x + half, y - half), (x + half, y + half)]
    canvas.line([*corners, (x - half, y + half), (x - half, y - half - 1)], edge, 4)
    beside = left + GRID_SIDE + 58
    _draw_cube(canvas, (beside, GRID_TOP + GRID_SIDE / 2), 44, cubes.target)
    if cubes.right is not None:
        canvas.mark((beside, GRID_TOP + GRID_SIDE / 2 + 48), cubes.right)
    canvas.text((WIDTH / 2, NOTE_Y + 8), cubes.note, 13, GRAY)
    return canvas.pixels()


def _draw_cube(canvas: Canvas, middle: Point, size: Real, number: int) -> None:
    x, y = middle
    color = CUBE_COLORS[number % len(CUBE_COLORS)]
    canvas.box((x - size / 2, y - size / 2), (size, size), color, radius=0.12 * size)


TRACK_Y, PIVOT_Y = 184, 158
CART = (48, 24)
POLE_LENGTH = 104


class Pole(NamedTuple):
    """Position of a cart, and the angle of its pole in radians, clockwise from upright."""

    position: float
    angle: float


class Limits(NamedTuple):
    """Position and angle, to either side, beyond which the pole counts as fallen."""

    position: float
    angle: float


def cart_pole(pole: Pole, seen: Pole | None, limits: Limits, time_left: Real) -> Picture:
    """A cart on its track with its pole; ``seen`` is the agent's observation, if that differs."""
    canvas = Canvas("Keep the pole upright", time_left)
    fell = abs(pole.position) > limits.position or abs(pole.angle) > limits.angle
    reach = WIDTH / 2 - MARGIN - CART[0] / 2
    x = WIDTH / 2 + reach * pole.position / limits.position
    for angle in (-limits.angle, limits.angle):
        canvas.line([(x, PIVOT_Y), _tip(x, angle)], FAINT, 1)
    canvas.line([(MARGIN, TRACK_Y), (WIDTH - MARGIN, TRACK_Y)], INK)
    if seen is not None:
        seen_x = WIDTH / 2 + reach * seen.position / limits.position
        _draw_cart(canvas, seen_x, seen.angle, PALE_BLUE, PALE_BLUE)
        canvas.text((WIDTH / 2, NOTE_Y), "pale: what the agent sees", 12, GRAY)
    _draw_cart(canvas, x, pole.angle, INK, RED if fell else BLUE)
    return canvas.pixels()


def _tip(x: float, angle: float) -> Point:
    return x + POLE_LENGTH * math.sin(angle), PIVOT_Y - POLE_LENGTH * math.cos(angle)


def _draw_cart(canvas: Canvas, x: float, angle: float, cart: Color, pole: Color) -> None:
    width, height = CART
    canvas.box((x - width / 2, TRACK_Y - height - 2), CART, cart, radius=4)
    canvas.line([(x, PIVOT_Y), _tip(x, angle)], pole, 6)
    canvas.disc(_tip(x, angle), 3, pole)
    canvas.disc((x, PIVOT_Y), 4.5, WHITE, pole)


NODE_RADIUS = 13


class Walk(NamedTuple):
    """A directed graph with kinds of edges, an agent on one of its nodes, and the goal."""

    destinations: Int[np.ndarray, "kinds nodes"]
    """The node that an edge of each kind leads to from each node; negative: no such edge."""
    node: int
    goal: int
    note: str
    """The outcome of the last step, in words."""
    note_color: Color
    time_left: Real


def graph_walk(walk: Walk) -> Picture:
    """The nodes on a circle; the edges that the agent can choose from are blue, with numbers."""
    canvas = Canvas("Find the way to the green place", walk.time_left)
    num_nodes = walk.destinations.shape[1]
    angle = 2 * np.pi * np.arange(num_nodes) / num_nodes
    nodes = np.stack([WIDTH / 2 + 92 * np.sin(angle), 124 - 70 * np.cos(angle)], axis=1)
    # edges from the agent's node are drawn last, on top
    for origin in sorted(range(num_nodes), key=lambda node: node == walk.node):
        _draw_edges(canvas, nodes, origin, walk)
    for node, (x, y) in enumerate(nodes.tolist()):
        fill, edge = {walk.goal: (PALE_GREEN, GREEN), walk.node: (BLUE, BLUE)}.get(
            node, (WHITE, GRAY)
        )
        canvas.disc((x, y), NODE_RADIUS, fill, edge)
    canvas.text((WIDTH / 2, NOTE_Y + 6), walk.note, 13, walk.note_color)
    return canvas.pixels()


def _draw_edges(
    canvas: Canvas, nodes: Float[np.ndarray, "nodes 2"], origin: int, walk: Walk
) -> None:
    """The edges that leave from one node, each beside the line between the nodes, on its right."""
    here = origin == walk.node
    drawn: list[int] = []
    for kind, destination in enumerate(walk.destinations[:, origin].tolist()):
        if destination < 0:
            continue
        along = nodes[destination] - nodes[origin]
        along /= np.hypot(*along)
        # a second edge to the same node is drawn farther aside, its label farther along
        rank = drawn.count(destination)
        drawn.append(destination)
        aside = np.array([-along[1], along[0]]) * (4 + 9 * rank)
        tail = nodes[origin] + aside + NODE_RADIUS * along
        head = nodes[destination] + aside - (NODE_RADIUS + 1) * along
        canvas.arrow(tail, head, BLUE if here else FAINT)
        if here:
            label = tail + (14 + 16 * rank) * along
            canvas.disc(label, 8, PAPER)
            canvas.text(label, str(kind), 12, BLUE)
