"""The encoder and decoder with every memory, and the search for translations."""

import itertools

import pytest
import torch

from fwrl.bench.translation.beam_search import Search, translate
from fwrl.bench.translation.model import TranslationModel
from fwrl.bench.translation.settings import METHODS, TranslationSettings, model_config
from fwrl.state import take_rows

VOCABULARY = 11
SETTINGS = TranslationSettings(width=16, heads=2, layers=2, dropout=0.3)
# each kind of attention and of state; the others are tested as cores
KINDS = ("softmax", "linear", "performer 32", "dpfp 2", "delta, dpfp 2", "gated delta", "none")
every_kind = pytest.mark.parametrize("method", [*KINDS, "lstm", "gtrxl", "ffm", "infinite_former"])


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


def make(method, vocabulary=VOCABULARY, settings=SETTINGS):
    torch.manual_seed(0)
    return TranslationModel(vocabulary, model_config(settings, method, 20)).eval()


def sentences():
    torch.manual_seed(1)
    source = torch.randint(3, VOCABULARY, (3, 7))
    source[1, 2:] = source[2, 5:] = 0
    return source, torch.randint(3, VOCABULARY, (3, 9))


def close(first, second):
    torch.testing.assert_close(first, second, atol=2e-5, rtol=2e-4)


@every_kind
def test_padding_changes_nothing(method):
    model = make(method)
    source, said = sentences()
    logits = model(source, said)
    assert logits.shape == (3, 9, VOCABULARY)
    for row, length in enumerate((7, 2, 5)):
        one = slice(row, row + 1)
        close(model(source[one, :length], said[one]), logits[one])


@every_kind
def test_word_by_word_is_the_whole(method):
    """One state is carried, and none of its parts is longer for a longer past."""
    model = make(method)
    source, said = sentences()
    whole, read = model(source, said), model.encode(source)
    state, starts = model.initial_state(3), torch.zeros(3, 1, dtype=torch.bool)
    for time in range(9):
        logits, state = model.unroll(said[:, time : time + 1], read, state, starts)
        close(logits[:, 0], whole[:, time])
    assert state.said.tolist() == [9, 9, 9]


@every_kind
def test_the_decoder_sees_no_later_word_and_the_encoder_sees_all(method):
    model = make(method)
    source, said = sentences()
    whole = model(source, said)
    changed = said.clone()
    changed[:, 5] = 3 + (said[:, 5] - 2) % (VOCABULARY - 3)
    other = model(source, changed)
    close(other[:, :5], whole[:, :5])
    assert not torch.allclose(other[:, 5], whole[:, 5], atol=1e-4)
    remembers = not torch.allclose(other[:, 6:], whole[:, 6:], atol=1e-4)
    assert remembers == (method != "none")
    # the first of the encoder's outputs depends on the last word
    layer, x = model.encoder[0], torch.randn(1, 6, 16)
    present = torch.ones(1, 6, dtype=torch.bool)
    near = x.clone()
    near[:, -1] = x[:, 0]
    assert not torch.allclose(layer(x, present)[:, 0], layer(near, present)[:, 0], atol=1e-5)


def test_a_start_forgets_what_was_said():
    model = make("delta, dpfp 2")
    source, said = sentences()
    starts = torch.zeros(3, 9, dtype=torch.bool)
    starts[1, 4] = True
    read = model.encode(source)
    logits, state = model.unroll(said, read, model.initial_state(3), starts)
    fresh = model.unroll(said[:, 4:], read, model.initial_state(3), starts[:, 4:])[0]
    close(logits[1, 4:], fresh[1])
    assert state.said.tolist() == [9, 5, 9]
    close(logits[0], model(source, said)[0])


def test_dropout_only_in_training():
    model = make("linear")
    source, said = sentences()
    close(model(source, said), model(source, said))
    model.train()
    assert not torch.allclose(model(source, said), model(source, said))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_can_be_built(method):
    assert make(method).encoder


def test_methods_are_what_they_are_called():
    config = model_config(SETTINGS, "dpfp 3", 20)
    assert config.memory.nu == config.attention.nu == config.cross_attention.nu == 3
    assert (config.memory.update_rule, config.memory.attention_normaliser) == ("sum", True)
    config = model_config(SETTINGS, "delta, dpfp 2", 20)
    assert (config.memory.update_rule, config.memory.normalise) == ("delta", "sum")
    assert config.attention == model_config(SETTINGS, "dpfp 2", 20).attention
    performer = model_config(SETTINGS, "performer 64", 20)
    assert performer.attention.num_features == performer.memory.num_features == 64
    assert performer.memory.redraw_every == performer.cross_attention.redraw_every == 1
    softmax = SETTINGS.model_copy(update={"cross_attention": "softmax"})
    assert model_config(softmax, "dpfp 3", 20).cross_attention.feature_map is None
    assert model_config(SETTINGS, "softmax", 20).memory.window == 20
    assert model_config(SETTINGS, "gru", 20).encoder == "directions"


def peaked(method="linear", vocabulary=VOCABULARY, factor=3.0):
    """A model that is sure of what it says, so that ends come at different times."""
    model = make(method, vocabulary)
    model.embedding.weight.mul_(factor)
    for layer in model.decoder:
        # what was said long ago counts as much as the last word
        for parameter in layer.core.parameters():
            parameter.mul_(3)
    return model


def greedy(model, source, begin, end, limit):
    said = [begin]
    while len(said) <= limit:
        logits = model(source, torch.tensor([said]))[0, -1]
        logits[[0, begin]] = -torch.inf
        word = end if len(said) == limit else int(logits.argmax())
        if word == end:
            break
        said.append(word)
    return said[1:]


@pytest.mark.parametrize("method", ["linear", "softmax", "delta, dpfp 2"])
def test_a_beam_of_one_takes_the_likeliest_word(method):
    model = peaked(method)
    torch.manual_seed(2)
    source = torch.randint(3, VOCABULARY, (6, 6))
    for row, length in enumerate(torch.randint(1, 7, (6,)).tolist()):
        source[row, length:] = 0
    found = translate(model, source, Search(1, 2, beam=1, growth=1.5, extra=4))
    lengths = (source != 0).sum(1).tolist()
    expected = [
        greedy(model, source[row : row + 1, :n], 1, 2, int(1.5 * n + 4))
        for row, n in enumerate(lengths)
    ]
    assert found == expected
    assert len({len(words) for words in found}) > 2


def every_translation(model, source, longest, penalty):
    """The best of all, by trying all."""
    scores = {}
    for length in range(longest):
        every = list(itertools.product(range(3, 6), repeat=length))
        said = torch.tensor([[1, *words, 2] for words in every])
        likely = model(source.expand(len(every), -1), said[:, :-1]).log_softmax(-1)
        total = likely.gather(2, said[:, 1:, None]).sum((1, 2)) / (length + 1) ** penalty
        scores |= dict(zip(every, total.tolist(), strict=True))
    assert len(scores) == 40
    return list(max(scores, key=scores.get))


@pytest.mark.parametrize(("factor", "penalty"), [(1.5, 0.0), (1.5, 0.6), (3.0, 3.0)])
def test_a_beam_as_wide_as_all_sentences_finds_the_best(factor, penalty):
    model = peaked("linear", 6, factor)
    torch.manual_seed(3)
    source = torch.randint(3, 6, (8, 4))
    search = Search(1, 2, beam=40, length_penalty=penalty, growth=0, extra=4)
    expected = [every_translation(model, row[None], 4, penalty) for row in source]
    assert translate(model, source, search) == expected


def test_a_wider_beam_finds_likelier_translations_whatever_else_is_in_the_batch():
    model = peaked("gated delta")
    source, _ = sentences()
    search = Search(1, 2, beam=5, length_penalty=0.0)
    together = translate(model, source, search)
    alone = [translate(model, source[row : row + 1], search)[0] for row in range(3)]
    assert together == alone

    def likelihood(row, words):
        logits = model(source[row : row + 1], torch.tensor([[1, *words]]))[0].log_softmax(-1)
        return sum(float(logits[t, w]) for t, w in enumerate([*words, 2]))

    narrow = translate(model, source, search._replace(beam=1))
    for row in range(3):
        assert likelihood(row, together[row]) >= likelihood(row, narrow[row]) - 1e-4


def test_translating_leaves_the_mode_as_it_was():
    model = make("linear").train()
    source, _ = sentences()
    search = Search(1, 2)
    assert translate(model, source, search) == translate(model, source, search)
    assert model.training


def test_rows_of_what_is_read_can_be_repeated():
    model = make("softmax")
    source, said = sentences()
    read, rows = model.encode(source), torch.tensor([2, 2, 0])
    starts = torch.zeros(3, 9, dtype=torch.bool)
    picked = take_rows(read, rows)
    logits = model.unroll(said[rows], picked, model.initial_state(3), starts)[0]
    close(logits, model(source, said)[rows])
