from typing import Annotated, ClassVar, Literal

import pytest
from pydantic import Field, ValidationError, model_validator

from fwrl.config import Config, ConfigError, nearest, validate


class Round(Config):
    synonyms: ClassVar[dict[str, str]] = {"size": "radius"}

    kind: Literal["round"] = "round"
    radius: float = Field(default=1.0, gt=0)
    colour: Literal["red", "green"] = "red"


class Square(Config):
    kind: Literal["square"] = "square"
    side: int
    turns: Literal[1, 2] = 1


class Frame(Config):
    shape: Annotated[Round | Square, Field(discriminator="kind")] = Round()
    thick: bool = False

    @model_validator(mode="after")
    def _thick_or_round(self):
        if self.thick and self.shape.kind == "square":
            raise ValueError("thick frames are round; use shape.kind=round")
        return self


class Picture(Config):
    frame: Frame = Frame()
    title: str
    width: int = Field(default=10, ge=1)
    height: float | None = None


GOOD = {"title": "x"}


def test_what_is_right_is_built():
    picture = validate(Picture, GOOD | {"frame": {"shape": {"kind": "square", "side": 3}}})
    assert picture.frame.shape == Square(side=3)
    assert picture.height is None


def test_configurations_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        validate(Picture, GOOD).width = 3


def shape(**values):
    return GOOD | {"frame": {"shape": values}}


MISTAKES = {
    "unknown key": (GOOD | {"widht": 3}, "widht: no such key; did you mean 'width'?"),
    "unlike any": (GOOD | {"zzz": 3}, "zzz: no such key; choose from frame, height, title, width"),
    "misspelt and so missing": ({"titel": "x"}, "titel: no such key; did you mean 'title'?"),
    "missing": ({}, "title: missing; it must be given"),
    "wrong type": (
        GOOD | {"width": "wide"},
        "width is 'wide'; it should be a valid integer, unable to parse string as an integer",
    ),
    "out of range": (GOOD | {"width": 0}, "width is 0; it should be greater than or equal to 1"),
    "not finite": (GOOD | {"height": float("nan")}, "height is nan; it should be a finite number"),
    "no mapping": (
        GOOD | {"frame": 3},
        "frame is 3; it should be a valid dictionary or instance of Frame",
    ),
    "nested unknown key": (
        shape(kind="round", radios=3),
        "frame.shape.radios: no such key; did you mean 'radius'?",
    ),
    "synonym": (
        shape(kind="round", size=3),
        "frame.shape.size: no such key; here it is called 'radius'",
    ),
    "another member's key": (
        shape(kind="square", side=1, radius=2),
        "frame.shape.radius: no such key; choose from kind, side, turns",
    ),
    "nested range": (
        shape(kind="round", radius=-1),
        "frame.shape.radius is -1; it should be greater than 0",
    ),
    "nested missing": (shape(kind="square"), "frame.shape.side: missing; it must be given"),
    "literal": (
        shape(colour="gren", kind="round"),
        "frame.shape.colour is 'gren'; did you mean 'green'?",
    ),
    "literal unlike any": (
        shape(colour="blue!", kind="round"),
        "frame.shape.colour is 'blue!'; choose from red, green",
    ),
    "literal number": (
        shape(kind="square", side=1, turns=3),
        "frame.shape.turns is 3; choose from 1, 2",
    ),
    "union tag": (shape(kind="squrae"), "frame.shape.kind is 'squrae'; did you mean 'square'?"),
    "union tag unlike any": (shape(kind=7), "frame.shape.kind is '7'; choose from round, square"),
    "no union tag": (shape(side=3), "frame.shape.kind: missing; choose from round, square"),
    "union of no mapping": (
        GOOD | {"frame": {"shape": 3}},
        "frame.shape is 3; it should be a valid dictionary or object to extract fields from",
    ),
    "our own rule": (
        GOOD | {"frame": {"thick": True, "shape": {"kind": "square", "side": 1}}},
        "frame: thick frames are round; use shape.kind=round",
    ),
    "a long text": (
        GOOD | {"width": "a\nb"},
        r"width is 'a\nb'; it should be a valid integer, unable to parse string as an integer",
    ),
    "nothing at all": (
        3,
        "the configuration is 3; it should be a valid dictionary or instance of Picture",
    ),
}


@pytest.mark.parametrize(("values", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line_that_says_where_and_what_would_be_right(values, message):
    with pytest.raises(ConfigError) as error:
        validate(Picture, values)
    assert str(error.value) == message
    assert error.value.__suppress_context__


def test_the_place_may_stand_inside_another():
    with pytest.raises(ConfigError) as error:
        validate(Picture, shape(kind="round", radius=0), where="runs.0")
    assert str(error.value).startswith("runs.0.frame.shape.radius is 0;")
    with pytest.raises(ConfigError, match=r"^here: thick frames"):
        validate(Frame, {"thick": True, "shape": {"kind": "square", "side": 1}}, where="here")
    with pytest.raises(ConfigError, match=r"^thick frames"):
        validate(Frame, {"thick": True, "shape": {"kind": "square", "side": 1}})


def test_nearest():
    assert nearest("lstn", ["lstm", "gru"]) == "did you mean 'lstm'?"
    assert nearest("transformer", ["lstm", "gru"]) == "choose from lstm, gru"
    assert nearest("x", []) == "nothing is possible here"
