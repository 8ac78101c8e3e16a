"""A memory has one colour in all figures; the parts of figures show what they are given."""

import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from fwrl.bench import plot
from fwrl.bench.plot import COLOURS, FAMILIES, colours_of, family_of


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("delta, dpfp 2", "delta"),
        ("delta net, rate 2.5e-4", "delta"),
        ("fast weights, delta rule", "delta"),
        ("gated_delta", "gated delta"),
        ("gated delta net", "gated delta"),
        ("LSTM", "lstm"),
        ("lstm 512", "lstm"),
        ("sum, elu + 1", "sum"),
        ("no memory", "no memory"),
        ("delta_rnn", None),
        ("rwkv7", None),
    ],
)
def test_families(name, family):
    # an own kind of network is no delta net, though its name begins so
    assert family_of(name) == family


def test_a_family_has_one_colour_whatever_stands_beside_it():
    assert (
        colours_of(["sum", "delta"])["delta"] == colours_of(["delta, silu", "sum"])["delta, silu"]
    )
    assert set(FAMILIES.values()) <= set(COLOURS)


def test_no_two_are_alike():
    names = [
        "delta, dpfp 1",
        "delta, dpfp 2",
        "delta, dpfp 3",
        "sum",
        "rwkv7",
        "lru",
        "mesa",
        "ffm",
    ]
    colours = colours_of(names)
    assert list(colours) == names
    assert len(set(colours.values())) == len(names)
    # shades differ in lightness, as they must in grey
    greys = sorted(sum(to_rgb(colours[name])) for name in names[:3])
    assert min(greys[1] - greys[0], greys[2] - greys[1]) > 0.3
    # more than there are colours: they begin anew
    assert len(colours_of([str(number) for number in range(20)])) == 20


ROWS = [
    {"seed": 0, "step": 20, "accuracy": 0.5},
    {"seed": 0, "step": 10, "accuracy": 0.1},
    {"seed": 1, "step": 10, "accuracy": 0.3},
    {"seed": 1, "step": 20},
]


def test_rows_by_a_column():
    assert plot.by(ROWS, "accuracy") == {0.5: ROWS[:1], 0.1: ROWS[1:2], 0.3: ROWS[2:3]}
    assert plot.numbers(ROWS, "accuracy") == [0.5, 0.1, 0.3]


def test_the_parts_of_a_figure(tmp_path):
    with plot.figure(tmp_path / "one.png", 4, 3, "title") as figure:
        left, right = figure.subplots(1, 2)
        plot.seeds(left, ROWS, "step", "accuracy", "red", "seeds")
        assert [line.get_xydata().tolist() for line in left.lines] == [
            [[10, 0.1], [20, 0.5]],
            [[10, 0.3]],
        ]
        plot.curve(left, {2: [3.0, 5.0], 1: [2.0]}, "blue", "seeds")
        assert left.lines[-1].get_xydata().tolist() == [[1, 2], [2, 4]]
        plot.bars(right, {"a": [1.0, 2.0], "b": [0.5]}, {"a": "red", "b": "blue"})
        assert [bar.get_width() for bar in right.patches] == [1.5, 0.5]
        assert [text.get_text() for text in right.texts] == ["1.500", "0.500"]
        plot.interval(right, (0.5, 0.2, 0.7), 1, "red", hollow=True)
        assert right.lines[-2].get_xdata().tolist() == [0.2, 0.7]
        assert right.lines[-1].get_markerfacecolor() == "white"
        plot.legend_below(figure)
        (legend,) = figure.legends
        assert [text.get_text() for text in legend.texts] == ["seeds"]
        plot.legend_below(right)
        assert right.get_legend() is None
    assert imread(tmp_path / "one.png").shape[:2] == (450, 600)


def test_words_stand_below_a_figure_which_stays_as_it_is(tmp_path):
    file = tmp_path / "one.png"
    with plot.figure(file, 4, 3) as figure:
        figure.subplots().plot([1, 2])
    before = imread(file)
    plot.write_below(file, "words")
    after = imread(file)
    below = after[len(before) :, :, :3]
    assert (after[: len(before)] == before).all()
    assert ((below[..., 0] > 0.9) & (below[..., 1:].max(-1) < 0.1)).sum() > 50
