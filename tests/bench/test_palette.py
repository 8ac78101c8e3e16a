"""A memory has one colour in all figures."""

import pytest
from matplotlib.colors import to_rgb

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
