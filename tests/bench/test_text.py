"""Corpora: what is found where, what the numbers stand for, and how texts are cut."""

import hashlib
import math
import sys
from pathlib import PurePosixPath
from types import SimpleNamespace

import pytest
import torch

from fwrl import ConfigError
from fwrl.bench.lm import text
from fwrl.bench.lm.text import SPLITS, in_rows, load_corpus, segment, split_of, windows

TRAIN = " the <unk> sat \n\n the cat sat on the mat \n"
VALID = " the dog sat \n"
TEST = " a cat \n the mat \n"


def write(folder, form, names=SPLITS, texts=(TRAIN, VALID, TEST)):
    for name, each in zip(names, texts, strict=True):
        (folder / form.format(name)).write_text(each)
    return str(folder)


@pytest.mark.parametrize("form", text.FORMS)
@pytest.mark.parametrize("valid", ["valid", "validation", "val"])
def test_the_usual_names_are_found(tmp_path, form, valid):
    corpus = load_corpus(write(tmp_path, form, ("train", valid, "test")), "byte")
    assert corpus.name == tmp_path.name
    assert corpus.vocabulary == 256
    for tokens, expected in zip(corpus[3:], (TRAIN, VALID, TEST), strict=True):
        assert bytes(tokens.tolist()).decode() == expected
    assert corpus.text(corpus.train.tolist()) == TRAIN


def test_words_are_numbered_by_frequency_and_lines_end(tmp_path):
    corpus = load_corpus(write(tmp_path, "wiki.{}.tokens"), "word")
    assert corpus.words == ("<eos>", "the", "sat", "<unk>", "cat", "mat", "on")
    assert corpus.vocabulary == 7
    # blank lines count, as in the published numbers of tokens
    assert corpus.train.tolist() == [1, 3, 2, 0, 0, 1, 4, 2, 6, 1, 5, 0]
    assert corpus.valid.tolist() == [1, 3, 2, 0]
    assert corpus.test.tolist() == [3, 4, 0, 1, 5, 0]
    assert corpus.text(corpus.test.tolist()) == "<unk> cat\nthe mat\n"


def test_a_text_without_unknown_words_makes_them_of_what_occurs_once(tmp_path):
    texts = "a b a c\nb a\n", "a c\n", "z\n"
    corpus = load_corpus(write(tmp_path, "{}.txt", texts=texts), "word")
    assert corpus.words == ("a", "<eos>", "b", "<unk>")
    assert corpus.train.tolist() == [0, 2, 0, 3, 1, 2, 0, 1]
    assert corpus.valid.tolist() == [0, 3, 1]


def test_limits_cut_at_the_end_of_a_line_and_the_digest_tells(tmp_path):
    source = write(tmp_path, "ptb.{}.txt")
    whole, cut = load_corpus(source, "byte"), load_corpus(source, "byte", {"train": 20})
    assert cut.text(cut.train.tolist()) == " the <unk> sat \n\n"
    assert cut.text(cut.test.tolist()) == TEST
    digests = {whole.sha256, cut.sha256, load_corpus(source, "word").sha256}
    assert len(digests) == 2
    assert load_corpus(source, "byte", {"train": len(TRAIN)}).sha256 == whole.sha256


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "corpus: nowhere is not a folder; give one with wiki.train.tokens, ptb.train"),
        ("hub:wikitext2", "corpus: hub:wikitext2 is not known; did you mean 'wikitext-2'?"),
        ("hub:wikitext-2", r"needs the package datasets; pip install 'fwrl\[lm\]'"),
    ],
)
def test_what_is_missing_is_said_in_one_line(source, message, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=message) as error:
        load_corpus(source, "byte")
    assert "\n" not in str(error.value)


def test_a_folder_without_one_of_the_texts_and_an_empty_text(tmp_path):
    source = write(tmp_path, "ptb.{}.txt")
    (tmp_path / "ptb.valid.txt").unlink()
    with pytest.raises(ConfigError, match=r"has no valid text; give one with wiki\.valid\.tokens"):
        load_corpus(source, "byte")
    (tmp_path / "ptb.valid.txt").write_text("\n")
    with pytest.raises(ConfigError, match=r"the valid text of .* is empty"):
        load_corpus(source, "word")


def test_wikitext_from_the_hub(monkeypatch):
    asked = []

    def load_dataset(*names):
        asked.append(names)
        texts = {"train": TRAIN, "validation": VALID, "test": TEST}
        # rows as they come: with their line's end, or empty for a blank line
        return {
            split: [{"text": line.replace("\n", "") and line} for line in each.splitlines(True)]
            for split, each in texts.items()
        }

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    corpus = load_corpus("hub:wikitext-103", "byte")
    assert asked == [("Salesforce/wikitext", "wikitext-103-v1")]
    assert [corpus.text(tokens.tolist()) for tokens in corpus[3:]] == [TRAIN, VALID, TEST]

    def offline(*_):
        raise ConnectionError("no\nroute")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=offline))
    with pytest.raises(ConfigError, match="hub:wikitext-103 cannot be loaded: no route"):
        load_corpus("hub:wikitext-103", "byte")


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A small library of forty modules, and files that do not belong to it."""
    for number in range(40):
        folder = tmp_path / f"package_{number % 3}"
        folder.mkdir(exist_ok=True)
        (folder / f"module_{number}.py").write_bytes(b"x = %d\r\n" % number)
    for other in ("test/a.py", "package_0/tests/b.py", "site-packages/c.py", "_sysconfigdata_x.py"):
        (tmp_path / other).parent.mkdir(exist_ok=True)
        (tmp_path / other).write_text("other\n")
    monkeypatch.setattr(text.sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    return tmp_path


def test_the_library_is_split_by_file_whatever_the_order(library, monkeypatch):
    corpus = load_corpus("library", "byte")
    lines = {split: corpus.text(getattr(corpus, split).tolist()).split("\n") for split in SPLITS}
    where = {line: split for split, each in lines.items() for line in each if line}
    assert len(where) == sum(len(each) - 1 for each in lines.values()) == 40
    for number in range(40):
        path = PurePosixPath(f"package_{number % 3}/module_{number}.py")
        assert where[f"x = {number}"] == split_of(path)
    forwards = text.os.walk

    def backwards(root):
        for folder, folders, names in forwards(root):
            folders.reverse()
            yield folder, folders, names[::-1]

    monkeypatch.setattr(text.os, "walk", backwards)
    again = load_corpus("library", "byte")
    assert again.sha256 == corpus.sha256
    assert again.name == corpus.name == "python-" + sys.version.split()[0]


def test_shares_of_the_splits():
    count = 20_000
    splits = [split_of(PurePosixPath(f"folder/{number}.py")) for number in range(count)]
    for split, share in {"train": 0.9, "valid": 0.05, "test": 0.05}.items():
        allowed = 4 * math.sqrt(share * (1 - share) / count)
        assert splits.count(split) / count == pytest.approx(share, abs=allowed)
    # the rule itself: part of what a result says
    digest = hashlib.sha256(b"json/decoder.py").hexdigest()
    assert (int(digest[:8], 16) / 2**32 < 0.9) == (
        split_of(PurePosixPath("json/decoder.py")) == "train"
    )


def test_a_python_without_source_text_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(text.sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    with pytest.raises(ConfigError, match="no source text of Python's library; give a folder"):
        load_corpus("library", "byte")


def test_this_library_is_a_corpus():
    corpus = load_corpus("library", "word", {"train": 300_000, "valid": 50_000, "test": 50_000})
    for tokens in corpus[3:]:
        assert len(tokens) > 10_000
        assert 0 <= tokens.min() <= tokens.max() < corpus.vocabulary
    counts = torch.bincount(corpus.train, minlength=corpus.vocabulary)
    assert (counts.diff() <= 0).all()
    assert {"def", "self", "return", "<unk>", "<eos>", "("} <= set(corpus.words)
    assert load_corpus("library", "byte", {"train": 300_000}).train.numel() <= 300_000


def test_segments_are_the_rows_and_each_target_comes_next():
    rows = in_rows(torch.arange(35), 3)
    assert rows.tolist()[1] == list(range(11, 22))
    inputs, targets = zip(*[segment(rows, index, 4) for index in range(3)], strict=True)
    assert [each.shape[1] for each in inputs] == [4, 4, 2]
    assert torch.equal(torch.cat(inputs, 1), rows[:, :-1])
    assert torch.equal(torch.cat(targets, 1), rows[:, 1:])


# a stride beyond the window leaves out tokens
@pytest.mark.parametrize(
    ("length", "stride"), [(a, b) for a in (1, 5, 8, 40) for b in (1, 3, 5) if b <= a]
)
@pytest.mark.parametrize("total", [2, 6, 9, 23, 24])
def test_windows_ask_each_token_once_with_the_context_that_is_said(length, stride, total):
    asked = []
    for number, (inputs, targets) in enumerate(windows(torch.arange(total), length, stride, 2)):
        assert len(inputs) <= 2
        for window, answers in zip(inputs.tolist(), targets.tolist(), strict=True):
            assert window == list(range(window[0], window[0] + len(window)))
            assert answers[-1] == window[-1] + 1
            assert len(window) == min(length, total - 1)
            # the context of the first answer, itself not included
            seen = answers[0] - window[0]
            assert number == 0 or seen >= length - stride + 1
            asked += answers
    assert asked == list(range(1, total))
