"""Settings of fast weights that contradict each other are refused in one line."""

import re

import pytest

from fwrl.config import ConfigError, validate
from fwrl.cores.fast_weight import FastWeightConfig


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"normalise": "sum"}, "normalise='sum' cannot divide by features that may be negative"),
        ({"attention_normaliser": True}, "use elu_plus_one or dpfp"),
        ({"update_rule": "gated_sum", "max_beta": 2}, "use max_beta=1"),
        (
            {
                "update_rule": "delta",
                "attention_normaliser": True,
                "feature_map": "relu",
                "learned_initial_state": True,
            },
            "exclude each other",
        ),
        (
            {"attention_normaliser": True, "feature_map": "relu", "update_rule": "gated_delta"},
            "not defined for gated_delta",
        ),
        (
            {"num_householder": 2, "update_rule": "sum"},
            "num_householder is 2, but only delta, gated_delta, kda, gated_delta_2, longhorn, efla",
        ),
        ({"feature_map": "dpf"}, "did you mean 'dpfp'?"),
    ],
)
def test_settings_that_contradict_each_other_are_refused_in_one_line(values, message):
    with pytest.raises(ConfigError, match=re.escape(message)) as error:
        validate(FastWeightConfig, values, "core")
    assert "\n" not in str(error.value)


def test_sizes_that_do_not_fit_are_refused_when_the_core_is_built():
    with pytest.raises(ConfigError, match="input_size 30 does not divide into 4 heads"):
        FastWeightConfig().build(30)
    with pytest.raises(ConfigError, match=r"dpfp: nu is 8, .*; use nu below 4"):
        FastWeightConfig(feature_map="dpfp", nu=8).build(16)
    assert FastWeightConfig(key_size=8, value_size=8).build(30).output_size == 30
