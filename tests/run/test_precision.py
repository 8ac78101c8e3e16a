"""The precision of a run: chosen once, then kept; the same for acting and learning."""

import pytest
import torch

from fwrl.config import ConfigError, validate
from fwrl.run import precision, process
from fwrl.run.config import RunConfig
from fwrl.run.directory import open_directory
from fwrl.run.precision import faster, settled

RUN = {"env": {"id": "fwrl/RepeatPrevious-v0", "num_envs": 4}, "total_steps": 64}


def config(name):
    return validate(RunConfig, RUN | {"precision": name})


def test_what_is_said_is_not_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "faster", lambda _: pytest.fail("measured"))
    for name in ("float32", "bfloat16"):
        assert settled(config(name), tmp_path).precision == name


@pytest.mark.parametrize("chosen", ["float32", "bfloat16"])
def test_a_run_keeps_what_it_chose_at_its_start(chosen, tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "faster", lambda _: chosen)
    begun = settled(config("auto"), tmp_path)
    assert begun.precision == chosen
    open_directory(tmp_path, begun, (), "")
    other = {"float32": "bfloat16", "bfloat16": "float32"}[chosen]
    monkeypatch.setattr(precision, "faster", lambda _: other)
    assert settled(config("auto"), tmp_path).precision == chosen
    # a run that is started anew measures again
    assert settled(config("auto"), None).precision == other


def test_a_policy_is_built_with_a_precision_that_was_chosen():
    with pytest.raises(ValueError, match="precision is 'auto'"):
        _ = config("auto").policy
    assert config("bfloat16").policy.precision == "bfloat16"


def test_other_names_are_refused():
    with pytest.raises(ConfigError, match=r"precision is 'float16'; did you mean 'bfloat16'\?"):
        config("float16")


def test_the_faster_precision_is_the_one_whose_products_are(monkeypatch):
    seconds = {torch.float32: 3.0, torch.bfloat16: 1.0}
    monkeypatch.setattr(precision, "_seconds", lambda run: seconds[run().dtype])
    assert faster(config("auto")) == "bfloat16"
    seconds[torch.bfloat16] = 2.5
    assert faster(config("auto")) == "float32"


@pytest.fixture
def precision_of_products():
    """Tried anew, and afterwards as it was."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    process._stays_exact.cache_clear()
    yield
    process._stays_exact.cache_clear()
    torch.set_float32_matmul_precision(before)


def test_products_of_float32_stay_exact_whoever_multiplies(precision_of_products):
    process.compute_with(torch.get_num_threads())
    x, weight = torch.randn(512, 128), torch.randn(388, 128)
    exact = x.double() @ weight.double().t()
    # rounded to bfloat16 they would be wrong by 0.3
    torch.testing.assert_close((x @ weight.t()).double(), exact, atol=1e-3, rtol=0)


def test_where_onednn_would_round_it_is_not_asked(precision_of_products, monkeypatch):
    multiply = torch.Tensor.__matmul__

    def rounded(one, two):
        if one.dtype != torch.float32 or torch.get_float32_matmul_precision() != "medium":
            return multiply(one, two)
        return multiply(one.bfloat16(), two.bfloat16()).float()

    monkeypatch.setattr(torch.Tensor, "__matmul__", rounded)
    process.compute_with(torch.get_num_threads())
    assert torch.get_float32_matmul_precision() == "highest"


def test_a_precision_that_somebody_set_for_one_library_stays(precision_of_products):
    products = torch.backends.mkldnn.matmul
    before = products.fp32_precision
    products.fp32_precision = "bf16"
    try:
        process.compute_with(torch.get_num_threads())
        assert products.fp32_precision == "bf16"
    finally:
        products.fp32_precision = before
