"""The part of YAML that configurations are written in, and how the rest is refused."""

import os

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fwrl.config import ConfigError
from fwrl.run.yaml_files import apply_overrides, parse_yaml, read_yaml

PLAIN = {
    "a: 1": 1,
    "a: -1_000": -1000,
    "a: 0x1f": 31,
    "a: 3e-4": 3e-4,
    "a: 1.5": 1.5,
    "a: .5": 0.5,
    "a: true": True,
    "a: off": False,
    "a: ~": None,
    "a:": None,
    "a: word": "word",
    "a: '1'": "1",
    "a: 2020-01-01": "2020-01-01",
    "a: =": "=",
    "a: [1, {b: c}]": [1, {"b": "c"}],
    "a: |\n  x\n  y": "x\ny",
}


@pytest.mark.parametrize(("text", "value"), PLAIN.items())
def test_what_configurations_say(text, value):
    assert parse_yaml(text) == {"a": value}


REFUSED = {
    "a: 1\nb: {c: 1, d: 2, c: 3}": "the key 'c' stands there twice (line 2, column 17)",
    "a: 1\n'a': 1": "the key 'a' stands there twice (line 2, column 1)",
    "a: &x 1\nb: 2": "&anchors are not read here (line 1, column 4)",
    "a: *x": "*aliases are not read here (line 1, column 4)",
    "a: !!python/object/apply:os.system [x]": "no type can be named: "
    "'tag:yaml.org,2002:python/object/apply:os.system' (line 1, column 4)",
    "a: !!str 1": "no type can be named",
    "a: ! 1": "no type can be named",
    "!x\na: 1": "no type can be named",
    "1: 2": "the key '1' is no text; quotes make it one (line 1, column 1)",
    "on: 2": "the key 'on' is no text",
    "? {a: 1}\n: 2": "is no text",
    "a: " + "[" * 40: "more than 32 levels",
    "a: " + "1" * 101: "a number has 101 digits",
    "a: 0x" + "f" * 200: "a number has 202 digits",
    "a: '": "found unexpected end of stream",
    "a: 1\n---\nb: 2": "but found another document",
    "a: \x07": "special characters are not allowed",
    "[1]": "holds list; it should hold key: value lines",
    "": "holds NoneType",
}


@pytest.mark.parametrize(("text", "message"), REFUSED.items())
def test_what_they_do_not_say(tmp_path, text, message):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        read_yaml(path)
    assert message in str(error.value)
    assert str(error.value).startswith(str(path))
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    "text", ["[" * 40, "&x 1", "*x", "!!python/name:os.system", "{a: 1, a: 2}", "9" * 200, "{1: 2}"]
)
def test_overrides_are_read_alike(text):
    with pytest.raises(ConfigError, match=r"^seed: .* is not a YAML value: "):
        apply_overrides({}, [f"seed={text}"])


def test_only_files_of_text_are_read(tmp_path):
    def refusal(path, **options):
        with pytest.raises(ConfigError) as error:
            read_yaml(path, **options)
        return str(error.value)

    path, link = tmp_path / "a.yaml", tmp_path / "link.yaml"
    path.write_text("a: 1")
    link.symlink_to(path)
    assert read_yaml(link) == {"a": 1}
    assert "is a symbolic link" in refusal(link, links=False)
    assert "Is a directory" in refusal(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert "is no regular file" in refusal(tmp_path / "pipe")
    assert "is no regular file" in refusal(tmp_path / "pipe", links=False)
    path.write_bytes(b"a: \xff")
    assert "cannot be read ('utf-8' codec" in refusal(path)
    path.write_text("a: " + "x" * 2**20)
    assert "has 1,048,579 bytes; it should have at most 1,048,576" in refusal(path)


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**64), 2**64), st.floats(allow_nan=False), st.text()
)
texts = st.text().filter(lambda text: parse_or_none(text) == text)


def parse_or_none(text):
    try:
        return parse_yaml(yaml.safe_dump(text))
    except yaml.YAMLError:
        return None


@given(
    st.dictionaries(
        texts,
        st.recursive(scalars, lambda inner: st.lists(inner, max_size=3), max_leaves=5),
        max_size=4,
    )
)
def test_what_is_written_is_read_again(values):
    assert parse_yaml(yaml.safe_dump(values)) == values
