"""Truncated backpropagation with a state that is carried, and evaluations, against plain loops."""

import pytest
import torch
from torch.nn import functional as F

from fwrl import CORES, ConfigError, tensors_in
from fwrl.bench.lm import training as lm_training
from fwrl.bench.lm.model import LanguageModel, LanguageModelConfig
from fwrl.bench.lm.training import Segments, in_segments, in_windows, mean_loss, train
from fwrl.bench.supervised import Learner, TrainingConfig

SIZE, LENGTH, ROWS = 12, 5, 3
# four segments and a remainder in each row
TEXT = torch.randint(SIZE, (ROWS * 24,), generator=torch.Generator().manual_seed(0))
every_core = pytest.mark.parametrize("core", ["fast_weight", "lstm", "window_attention"])
both_ways = pytest.mark.parametrize("carry", [True, False], ids=["carried", "reset"])


def learner_for(core="fast_weight", steps=6, dropout=0.0, **core_settings):
    torch.manual_seed(0)
    config = LanguageModelConfig(width=16, feed_forward=16, dropout=dropout)
    model = LanguageModel(SIZE, config, CORES[core](**core_settings))
    return Learner(model, TrainingConfig(steps=steps, batch_size=ROWS, learning_rate=1e-2))


def run(learner, folder, carry=True, measured=lambda step: [], updates=None, text=TEXT):
    """Train to the end, or for some updates with a checkpoint of each; what was measured."""
    every = 0.0 if updates else 1e9
    going = train(learner, learner.model, text, Segments(LENGTH, carry), folder, every, measured)
    for _ in range(updates or 10**9):
        try:
            next(going)
        except StopIteration as end:
            return end.value
    return None


@both_ways
@pytest.mark.parametrize("core", ["fast_weight", "lstm"])
def test_a_training_that_was_stopped_ends_like_one_that_was_not(core, carry, tmp_path):
    def rows(learner):
        return lambda step: [{"step": step, "sum": learner.model.words.weight.sum().item()}]

    whole = learner_for(core, dropout=0.1)
    expected = run(whole, tmp_path / "whole", carry, rows(whole))
    assert [row["step"] for row in expected] == list(range(1, 7))
    # in the middle of an epoch, and at the end of one
    for updates in (3, 1):
        stopped = learner_for(core, dropout=0.1)
        run(stopped, tmp_path / "stopped", carry, rows(stopped), updates)
        # what happens in between is not part of it
        torch.rand(7)
    last = learner_for(core, dropout=0.1)
    assert run(last, tmp_path / "stopped", carry, rows(last)) == expected
    for ours, theirs in zip(last.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@both_ways
def test_rows_are_read_segment_by_segment_and_the_state_goes_on(carry, tmp_path, monkeypatch):
    read, plain = [], lm_training.losses

    def spy(model, inputs, targets, state):
        each, after = plain(model, inputs, targets, state)
        read.append((inputs, targets, state, after))
        return each, after

    monkeypatch.setattr(lm_training, "losses", spy)
    run(learner_for(), tmp_path, carry)
    rows = TEXT.view(ROWS, 24)
    assert len(read) == 6
    for step, (inputs, targets, state, _) in enumerate(read):
        start = step % 4 * LENGTH
        assert torch.equal(inputs, rows[:, start : start + LENGTH])
        assert torch.equal(targets, rows[:, start + 1 : start + LENGTH + 1])
        assert not any(leaf.requires_grad for leaf in tensors_in(state))
        if carry and step % 4:
            before = tensors_in(read[step - 1][3])
            assert any(leaf.any() for leaf in before)
        else:
            before = [torch.zeros_like(leaf) for leaf in tensors_in(state)]
        assert all(torch.equal(a, b) for a, b in zip(tensors_in(state), before, strict=True))


@pytest.mark.parametrize("core", ["fast_weight", "delta_rnn"])
def test_an_initial_state_that_is_learned_learns(core, tmp_path):
    settings = {"learned_initial_state": True} if core == "fast_weight" else {}
    learner = learner_for(core, **settings)
    before = [parameter.clone() for parameter in learner.model.parameters()]
    for carry in (True, False):
        run(learner, tmp_path / str(carry), carry)
        learner.step = 0
    after = learner.model.parameters()
    changed = [not torch.equal(a, b) for a, b in zip(after, before, strict=True)]
    # but for the vectors of clusters, of which a plain softmax has none
    assert sum(changed) == len(changed) - 2


def plain_losses(model, text):
    """The loss of each token of one text that begins with an empty state."""
    starts = torch.zeros(1, len(text) - 1, dtype=torch.bool)
    x, _ = model(text[None, :-1], model.initial_state(1), starts)
    return F.cross_entropy(
        x[0] @ model.words.weight.T + model.words.bias, text[1:], reduction="none"
    )


@every_core
def test_evaluations_are_those_of_plain_loops(core):
    model = learner_for(core).model
    for parameter in model.words.parameters():
        torch.nn.init.normal_(parameter)
    text = TEXT[:32]
    with torch.no_grad():
        whole = plain_losses(model, text)
        pieces = torch.stack([plain_losses(model, piece).mean() for piece in text.view(2, 16)])
        starts = range(0, 31, LENGTH)
        apart = torch.cat([plain_losses(model, text[i : i + LENGTH + 1]) for i in starts])
        last = [plain_losses(model, text[i - LENGTH : i + 1])[-1:] for i in range(6, 32)]
        sliding = torch.cat([plain_losses(model, text[:6]), *last])
    for each, expected in (
        (in_segments(model, text, Segments(LENGTH, carry=True), 1), whole),
        (in_segments(model, text, Segments(7, carry=True), 2), pieces),
        (in_segments(model, text, Segments(LENGTH, carry=False), 1), apart),
        (in_windows(model, text, LENGTH, 1, 4), sliding),
        (in_windows(model, text, 100, 1, 4), whole),
    ):
        found = mean_loss(model, each)
        assert found.loss == pytest.approx(expected.mean().item(), abs=1e-5)
        assert found.tokens in (31, 30)
    assert whole.mean() != pytest.approx(apart.mean().item(), abs=1e-3)


def test_units():
    found = lm_training.Evaluation(1.0, 5)
    assert found.row == {"bits": 1.4427, "perplexity": 2.7183, "asked": 5}
    assert lm_training.Evaluation(1e6, 5).row["perplexity"] > 1e300


def test_a_text_shorter_than_a_segment_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="17 tokens are less than one segment of 5 in each of 3"):
        run(learner_for(), tmp_path, text=TEXT[:17])
    run(learner_for(steps=1), tmp_path, text=TEXT[:18])
