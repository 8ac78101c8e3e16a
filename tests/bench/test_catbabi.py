"""bAbI's file format, and stories as one stream with their answers inline."""

import re

import pytest
import torch

from fwrl.bench.catbabi.babi_files import read_babi
from fwrl.bench.catbabi.stories import FAMILIES, Story
from fwrl.bench.catbabi.task import END, QUESTION, QuestionAlone, corpora, stream, synthetic
from fwrl.bench.sequence_model import NOT_ASKED
from fwrl.config import ConfigError

# written for this test, in the format of bAbI v1.2: tabs part question, answer and supporting facts
PLACES = """1 Ida paced to the pantry.
2 Otto ran to the roof.
3 Where is Ida? \tpantry\t1
4 Otto paced to the pantry.
5 Is Otto on the roof? \tno\t4
1 Otto ran to the roof.
2 Is Otto on the roof? \tyes\t1
"""
WAYS = """1 The roof is north of the pantry.
2 The pantry is west of the shed.
3 How do you go from the roof to the shed?\ts, e\t1 2
4 What is Ida carrying?\tapple,Milk\t1
"""
TEXT = "x y . what ? p z . what ? q"


def write(folder, **files):
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.txt").write_text(text)
    return folder


def words(story):
    return " ".join(story.words)


def test_the_folder_with_a_validation_set(tmp_path):
    folder = write(
        tmp_path, qa1_train=PLACES, qa1_valid=PLACES[PLACES.rindex("1 Otto") :], qa1_test=PLACES,
        qa19_train=WAYS, qa19_valid=WAYS, qa19_test=WAYS,
    )  # fmt: skip
    stories = read_babi(folder)
    assert [(each.family, words(each)) for each in stories["train"]] == [
        (
            "qa1",
            "ida paced to the pantry . otto ran to the roof . where is ida ? pantry "
            "otto paced to the pantry . is otto on the roof ? no",
        ),
        ("qa1", "otto ran to the roof . is otto on the roof ? yes"),
        (
            "qa19",
            "the roof is north of the pantry . the pantry is west of the shed . "
            "how do you go from the roof to the shed ? s,e what is ida carrying ? apple,milk",
        ),
    ]
    assert stories["test"] == stories["train"]
    assert [words(each) for each in stories["valid"]] == [
        words(stories["train"][1]), words(stories["train"][2]),
    ]  # fmt: skip


def test_the_folder_without_a_validation_set_holds_back_the_same_stories(tmp_path):
    many = "".join(f"1 Ida saw {n}.\n2 What? \t{n}\n" for n in range(30))
    folder = write(tmp_path, **{"qa2_some-name_train": many, "qa2_some-name_test": PLACES})
    stories = read_babi(folder)
    assert [each.words[2] for each in stories["valid"]] == ["0", "10", "20"]
    assert len(stories["train"]) == 27
    assert not {words(e) for e in stories["valid"]} & {words(e) for e in stories["train"]}
    assert read_babi(folder) == stories


def test_tasks_are_read_in_the_order_of_their_numbers(tmp_path):
    files = {f"qa{n}_{split}": WAYS for n in (10, 2) for split in ("train", "valid", "test")}
    assert [each.family for each in read_babi(write(tmp_path, **files))["test"]] == ["qa2", "qa10"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds no bAbI files; it should be a folder such as en-valid-10k"),
        ({"qa1_train": PLACES}, "holds qa1 but not its test file"),
        ({"qa1_train": "Ida ran.\n", "qa1_test": ""}, "line 1 is 'Ida ran.'; it should begin with"),
        (
            {"qa1_train": "1 Ida ran.\n2 Where is Ida?\n", "qa1_test": ""},
            "line 2 is 'Where is Ida?'; it should be a question, a tab and the answer",
        ),
        ({"qa1_train": "1 Ida.\thome\n", "qa1_test": ""}, "it should be a question, a tab and"),
        ({"qa1_train": PLACES * 9, "qa1_test": "\n"}, "has no stories to use for test"),
    ],
)
def test_mistakes_are_one_line(tmp_path, files, message):
    with pytest.raises(ConfigError, match=re.escape(message)) as error:
        read_babi(write(tmp_path / "data", **files))
    assert "\n" not in str(error.value)


def test_a_stream_tells_every_story_once_and_whole():
    corpus = corpora(synthetic({"train": 4}, 0))["train"]
    whole = stream(corpus, 1, torch.Generator().manual_seed(0))
    # the last end is what follows the last answer
    tokens = [*whole.tokens[0].tolist(), END]
    assert tokens[1:] == whole.following[0].tolist()
    stories, families, first = [], [], 0
    for time, token in enumerate(tokens):
        if token == END:
            stories.append(tokens[first : time + 1])
            families += whole.family[0, first:time].unique().tolist()
            first = time + 1
    assert sorted(stories) == sorted(each.tolist() for each in corpus.stories)
    told = {tuple(s.tolist()): f for s, f in zip(corpus.stories, corpus.family_of, strict=True)}
    assert families == [told[tuple(each)] for each in stories]
    began = whole.starts[0].nonzero().flatten().tolist()
    assert began == [0] + [time + 1 for time, token in enumerate(tokens[:-1]) if token == END]
    assert corpus.families == tuple(FAMILIES)


def test_rows_follow_each_other_and_segments_too():
    corpus = corpora(synthetic({"train": 3}, 0))["train"]
    one = stream(corpus, 1, torch.Generator().manual_seed(5))
    rows = stream(corpus, 4, torch.Generator().manual_seed(5))
    times = rows.tokens.shape[1]
    assert times == one.tokens.shape[1] // 4
    for joined, parts in zip(one, rows, strict=True):
        assert torch.equal(joined[0, : 4 * times], parts.flatten())
    segments = [rows.segment(index, 50).tokens for index in range(-(-times // 50))]
    assert torch.equal(torch.cat(segments, dim=1), rows.tokens)
    other = stream(corpus, 4, torch.Generator().manual_seed(6))
    assert not torch.equal(other.tokens, rows.tokens)


def test_what_is_to_be_predicted_in_each_mode():
    corpus = corpora({"train": [Story("a", TEXT.split())]})["train"]
    text = stream(corpus, 1, torch.Generator())
    named = [corpus.words[token] for token in text.tokens[0]]
    assert named == TEXT.split()
    following = [corpus.words[token] for token in text.targets("lm")[0]]
    assert following == [*TEXT.split()[1:], "<end>"]
    asked = text.targets("qm")[0].tolist()
    assert [index for index, target in enumerate(asked) if target != NOT_ASKED] == [4, 9]
    assert [corpus.words[asked[4]], corpus.words[asked[9]]] == ["p", "q"]


def test_splits_share_numbers_but_no_stories():
    splits = corpora(synthetic({"train": 30, "valid": 5, "test": 5}, 0))
    assert splits["train"].words == splits["test"].words
    assert splits["train"].words[QUESTION] == "?"
    texts = [{tuple(s.tolist()) for s in corpus.stories} for corpus in splits.values()]
    assert [len(each) for each in texts] == [450, 75, 75]
    assert not texts[0] & texts[2]
    assert not texts[0] & texts[1]
    assert synthetic({"test": 2}, 0) == synthetic({"test": 2}, 0) != synthetic({"test": 2}, 1)


def test_the_question_alone_knows_the_most_frequent_answer():
    told = [("x . a ? p"), ("x . a ? q y . a ? q"), ("x . b ? r")]
    asked = [("z . a ? q"), ("z . a ? p"), ("z . c ? q b ? r")]
    splits = {
        "train": [Story("f", text.split()) for text in told],
        "test": [Story("f", text.split()) for text in asked],
    }
    corpus = corpora(splits)
    counted = QuestionAlone(corpus["train"]).right(corpus["test"])
    # q for a; q, the most frequent of all, for c, which was never asked; r for b
    assert counted == {"f": (3, 4)}
