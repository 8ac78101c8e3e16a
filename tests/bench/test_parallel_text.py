"""Parallel text: files, tokens, batches of about equal length, and counting translations."""

import sys
from itertools import chain

import pytest
import torch

from fwrl import ConfigError
from fwrl.bench.sequence_model import NOT_ASKED
from fwrl.bench.translation.parallel_text import read_parallel
from fwrl.bench.translation.task import (
    BEGIN,
    END,
    UNKNOWN,
    Epochs,
    Subwords,
    Words,
    batches,
    encode_pairs,
    not_longer,
    translation_batch,
)
from fwrl.bench.translation.word_by_word import learn_dictionary, word_by_word

PAIRS = [("a b", "x y z"), ("b", "y"), ("a a c", "x x"), ("c b a", "z y x"), ("b c", "y")]


def write(folder, **files):
    for name in ("train", "valid", "test"):
        for language in ("en", "de"):
            text = files.get(f"{name}_{language}", "one two\nthree\n")
            data = text if isinstance(text, bytes) else text.encode()
            (folder / f"{name}.{language}").write_bytes(data)
    return folder


def test_files_are_read_line_by_line(tmp_path):
    write(tmp_path, train_en="A  b\tc\n\nd\u2028e\nf", train_de="X\ny\nz \n\n", test_en="q\n\n")
    splits = read_parallel(tmp_path, "en", "de")
    # a pair without a side is no lesson, but must be translated
    assert splits.train == [("A b c", "X"), ("d e", "z")]
    assert splits.test == [("q", "one two"), ("", "three")]
    assert splits.valid == [("one two", "one two"), ("three", "three")]
    assert read_parallel(tmp_path, "de", "en").train[1] == ("z", "d e")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"valid_de": "one\n"}, r"valid\.en has 2 lines, but .*valid\.de has 1; line n"),
        ({"test_en": b"caf\xe9\nb\n"}, r"test\.en is not UTF-8 at byte 3; convert it"),
        ({"train_en": "\n", "train_de": "\n"}, r"hold no pair of sentences"),
    ],
)
def test_mistakes_in_files_are_told_in_one_line(tmp_path, files, message):
    with pytest.raises(ConfigError, match=message) as error:
        read_parallel(write(tmp_path, **files), "en", "de")
    assert "\n" not in str(error.value)


def test_files_that_are_missing(tmp_path):
    with pytest.raises(ConfigError, match=r"train\.en cannot be read; train, valid and test"):
        read_parallel(tmp_path, "en", "de")
    write(tmp_path)
    with pytest.raises(ConfigError, match=r"train\.fr cannot be read"):
        read_parallel(tmp_path, "en", "fr")
    with pytest.raises(ConfigError, match="both languages are 'en'"):
        read_parallel(tmp_path, "en", "en")


def test_words_are_the_most_frequent_and_come_back():
    vocabulary = Words(PAIRS, 7)
    # a, b and y occur four times each or more
    assert vocabulary.size == 7
    assert vocabulary.words[4:] == ["a", "b", "x"] or vocabulary.words[4:] == ["a", "b", "y"]
    tokens = vocabulary.encode(["b a q", ""])
    assert tokens == [[5, 4, UNKNOWN], []]
    assert vocabulary.decode(tokens[0]) == "b a <unk>"
    assert Words(reversed(PAIRS), 7).words == vocabulary.words
    whole = Words(PAIRS, 100)
    assert all(whole.decode(whole.encode([text])[0]) == text for pair in PAIRS for text in pair)


def test_subwords_need_their_library(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ConfigError, match=r"tokenizers is missing; pip install 'fwrl\[lm\]'"):
        Subwords(PAIRS, 50, tmp_path / "subwords.json")


def test_subwords_come_back_and_are_kept(tmp_path):
    path = tmp_path / "subwords.json"
    pairs = [("lower lowest newer", "Grüße neuere")] * 20
    vocabulary = Subwords(pairs, 60, path)
    assert vocabulary.size <= 60
    texts = ["newer lower", "lowest Grüße neuere"]
    tokens = vocabulary.encode(texts)
    assert [vocabulary.decode(each) for each in tokens] == texts
    assert min(token for each in tokens for token in each) > UNKNOWN
    # what is there is read, whatever the pairs are
    assert Subwords(PAIRS, 60, path).encode(texts) == tokens


@pytest.fixture
def sentences():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 30, (300, 2), generator=generator).tolist()
    pairs = [(" ".join("a" * m), " ".join("b" * n)) for m, n in lengths]
    return encode_pairs(pairs, Words(pairs, 10))


def padded(sentences, rows):
    return max(int(side.lengths()[rows].max()) for side in sentences) * len(rows)


def test_batches_hold_every_sentence_once_and_not_too_many_tokens(sentences):
    rows = torch.arange(300)
    cut = batches(sentences, rows, 100, torch.Generator().manual_seed(0))
    assert torch.cat(cut).sort().values.tolist() == list(range(300))
    assert all(padded(sentences, batch) <= 100 for batch in cut)
    # one more sentence fits into none of them but the last of each length
    assert sum(padded(sentences, batch) for batch in cut) / len(cut) > 80
    asked = sum(int(side.lengths().sum()) for side in sentences)
    assert asked / (2 * sum(padded(sentences, batch) for batch in cut)) > 0.7


def test_batches_are_shuffled_only_if_that_is_asked(sentences):
    rows = torch.arange(0, 300, 2)
    cut = batches(sentences, rows, 100, None)
    longest = [padded(sentences, batch) // len(batch) for batch in cut]
    assert longest == sorted(longest)
    one, again, other = (
        [b.tolist() for b in batches(sentences, rows, 100, torch.Generator().manual_seed(s))]
        for s in (0, 0, 1)
    )
    assert one == again
    assert sorted(map(sorted, one)) != sorted(map(sorted, other))
    assert sorted(chain(*other)) == rows.tolist()


def test_a_sentence_that_is_too_long_is_a_batch(sentences):
    assert all(len(batch) == 1 for batch in batches(sentences, torch.arange(300), 2, None))
    short = not_longer(sentences, 8)
    lengths = torch.stack([side.lengths()[short] for side in sentences])
    assert lengths.max() == 8
    assert 0 < len(short) < 300


def test_a_batch_is_shifted_and_padded():
    vocabulary = Words(PAIRS, 20)
    batch = translation_batch(
        encode_pairs(PAIRS, vocabulary), torch.tensor([1, 3]), torch.device("cpu")
    )
    a, b, c, x, y, z = (vocabulary.tokens[word] for word in "abcxyz")
    assert batch.source.tolist() == [[b, END, 0, 0], [c, b, a, END]]
    assert batch.target.tolist() == [[BEGIN, y, 0, 0], [BEGIN, z, y, x]]
    assert batch.answer.tolist() == [[y, END, NOT_ASKED, NOT_ASKED], [z, y, x, END]]


def test_epochs_go_on_from_any_place(sentences):
    rows = torch.arange(300)

    def start(seed):
        return Epochs(sentences, rows, 200, torch.Generator().manual_seed(seed))

    epochs, seen, places = start(5), [], []
    for _ in range(3 * len(epochs.batches)):
        places.append(epochs.place())
        seen.append(epochs.take().tolist())
    count = len(epochs.batches)
    assert sorted(chain(*seen[:count])) == sorted(chain(*seen[count : 2 * count]))
    assert seen[:count] != seen[count : 2 * count]
    for begun in (0, 1, count - 1, count, count + 7):
        again = start(99)
        again.go_to(places[begun])
        assert [again.take().tolist() for _ in range(5)] == seen[begun : begun + 5]


def test_the_dictionary_counts_pairs():
    pairs = [("a b", "y x"), ("a", "x"), ("b c", "y z"), ("c", "z"), ("a b", "x y w")]
    vocabulary = Words(pairs, 30)
    encoded = encode_pairs(pairs, vocabulary)
    dictionary = learn_dictionary(encoded)
    words = {vocabulary.words[s]: vocabulary.words[t] for s, t in dictionary.items()}
    assert words == {"a": "x", "b": "y", "c": "z"}
    found = word_by_word(torch.tensor([*vocabulary.encode(["c a w"])[0], END]), dictionary)
    assert vocabulary.decode(found) == "z x <unk>"
