"""Stacks whose layers have different memories, by name: the memory of each layer."""

import json

from fwrl.cores import CORES


def memories(*kinds, **options):
    """Memories of these kinds; options are those of fast weights."""
    return tuple(CORES[kind](**options if kind == "fast_weight" else {}) for kind in kinds)


MIXES = {
    "attention above": memories("fast_weight", "window_attention"),
    "gru below": memories("gru", "fast_weight", update_rule="gated_delta"),
    "nothing below": memories("none", "lstm"),
    "three": memories("window_attention", "fast_weight", "gru", heads=2, short_convolution=3),
}


def core_of(name):
    """The memory of all layers, or of each, by the name of a kind or of a mix."""
    return MIXES[name] if name in MIXES else CORES[name]()


def override_of(name):
    """A mix as an override on the command line."""
    return f"core={json.dumps([each.model_dump() for each in MIXES[name]])}"
