"""Configurations: frozen, complete, and strict about what they do not know.

A configuration model stands beside the code that it configures. This file holds what they share:
the base class, and the translation of a mistake into one line that says where it is, what is wrong
and what would be right.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, TypeVar, Union, cast, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    GetPydanticSchema,
    Tag,
    ValidationError,
)
from pydantic_core import core_schema

# Longer messages are cut: nobody reads them.
LONGEST_MESSAGE = 1000
# Passwords in the address of a database or the like, and what stands before and behind each.
PASSWORDS = (
    re.compile(r"(\w://[^/:@\s]*:)\S*(@)"),
    re.compile(r"([?&;](?:password|passwd|pwd|sslpassword|token)=)[^&;\s'\")]*()", re.IGNORECASE),
)


def without_passwords(text: str) -> str:
    """A text with ``***`` in the place of passwords in addresses."""
    for pattern in PASSWORDS:
        text = pattern.sub(r"\1***\2", text)
    return text


class OneLineError(ValueError):
    """A message for the user, printable and on one line whatever a file has put into it."""

    def __init__(self, message: str) -> None:
        text = without_passwords(" ".join(message.split()))
        if len(text) > LONGEST_MESSAGE:
            text = f"{text[: LONGEST_MESSAGE - 3]}..."
        super().__init__("".join(c if c.isprintable() else ascii(c)[1:-1] for c in text))


ConfigType = TypeVar("ConfigType", bound=BaseModel)

# Sizes of layers and numbers of repetitions. They are bounded because a configuration may be a
# stranger's, and larger ones would exhaust any machine.
Size = Annotated[int, Field(gt=0, le=2**18)]
MOST = 2**10
Count = Annotated[int, Field(gt=0, le=MOST)]
# Tags, in no message, of the two forms of a part.
ONE, EACH = "(one)", "(each)"


class ConfigError(OneLineError):
    """A configuration that cannot be what its author meant. The message is one line."""


class Config(BaseModel):
    """The base of all configurations: immutable; an unknown field is an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )

    synonyms: ClassVar[Mapping[str, str]] = {}
    """Other libraries' names for our fields: an unknown key that is one of them is understood."""

    former: ClassVar[Mapping[str, Any]] = {}
    """Fields that are younger than runs which must stay as they are: the value that a stored
    configuration means where it lacks them. Where a user's lacks them, the default counts."""


def validate(model: type[ConfigType], values: Any, where: str = "") -> ConfigType:
    """An instance of ``model`` made of ``values``, which should be a mapping.

    Raises:
        ConfigError: For the first mistake found; ``where`` opens its message.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        errors = cast(list[Mapping[str, Any]], error.errors(include_url=False))
        # a misspelt key is also a missing one, and says more
        unknown = [each for each in errors if each["type"] == "extra_forbidden"]
        raise ConfigError(_describe(model, (unknown or errors)[0], where)) from None


def validate_stored(model: type[ConfigType], values: Any, where: str = "") -> ConfigType:
    """An instance of ``model`` as it was meant when its values were written.

    Raises:
        ConfigError: As ``validate`` does.
    """
    return validate(model, _as_meant(model, values), where)


def _as_meant(model: Any, values: Any) -> Any:
    if not isinstance(values, Mapping):
        return values
    filled = {**getattr(model, "former", {}), **cast(Mapping[Any, Any], values)}
    for name, field in model.model_fields.items():
        meant = _part_as_meant(field.annotation, filled.get(name, {}))
        filled |= {name: meant} if meant or name in filled else {}
    return filled


def _part_as_meant(annotation: Any, given: Any) -> Any:
    if isinstance(given, list):
        return [_part_as_meant(annotation, each) for each in cast(list[Any], given)]
    kind = cast(Any, given).get("kind") if isinstance(given, Mapping) else None
    inner = _variants(annotation).get(kind) if isinstance(kind, str) else annotation
    return _as_meant(inner, given) if hasattr(inner, "model_fields") else given


def as_stored(now: ConfigType, stored: ConfigType) -> ConfigType:
    """A configuration that keeps the former values of ``stored`` where nobody has said others."""
    changes: dict[str, Any] = {}
    former: Mapping[str, Any] = getattr(now, "former", {})
    for name in type(now).model_fields:
        mine, theirs = getattr(now, name), getattr(stored, name)
        unsaid = name in former and name not in now.model_fields_set
        if unsaid and theirs == former[name]:
            changes[name] = theirs
        else:
            kept = _part_as_stored(mine, theirs)
            changes |= {} if kept is mine else {name: kept}
    return now.model_copy(update=changes) if changes else now


def _part_as_stored(mine: Any, theirs: Any) -> Any:
    if type(mine) is not type(theirs):
        return mine
    if isinstance(mine, BaseModel):
        return as_stored(mine, theirs)
    if isinstance(mine, tuple) and len(cast(Any, mine)) == len(theirs):
        pairs = [*zip(cast(tuple[Any, ...], mine), theirs, strict=True)]
        kept = tuple(_part_as_stored(*pair) for pair in pairs)
        return mine if all(a is b for a, (b, _) in zip(kept, pairs, strict=True)) else kept
    return mine


def one_or_each(part: Any) -> Any:
    """The annotation of a part that is the same everywhere, or of a list of one for each place."""
    several = Annotated[tuple[part, ...], Field(min_length=1, max_length=MOST), Tag(EACH)]

    def form(given: Any) -> str:
        return EACH if isinstance(given, list | tuple) else ONE

    return Annotated[Union[Annotated[part, Tag(ONE)], several], Discriminator(form)]  # noqa: UP007


def one_of(names: Iterable[str]) -> GetPydanticSchema:
    """The annotation of a string that is one of these, like a ``Literal`` of their table."""
    choices = core_schema.literal_schema(list(names))
    return GetPydanticSchema(lambda _source, _handler: choices)


def head_size(kind: str, input_size: int, heads: int, otherwise: str = "") -> int:
    """The size of each of several heads that share an input.

    Raises:
        ConfigError: If they cannot share it equally; the message ends with ``otherwise``.
    """
    if input_size % heads:
        raise ConfigError(
            f"{kind}: input_size {input_size} does not divide into {heads} heads; "
            f"use a multiple of {heads}{otherwise}"
        )
    return input_size // heads


def nearest(name: Any, choices: Iterable[str]) -> str:
    """A hint at the right name instead of ``name``: the most similar choice, or all of them."""
    choices = list(choices)
    close = difflib.get_close_matches(str(name), choices, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"choose from {', '.join(choices)}" if choices else "nothing is possible here"


def _describe(model: type[BaseModel], error: Mapping[str, Any], where: str) -> str:
    path, owner, annotation = _walk(model, error["loc"])
    place = ".".join(filter(None, [where, *path]))
    value = error["input"]
    match error["type"]:
        case "extra_forbidden":
            return f"{place}: no such key; {_right_key(path[-1], owner)}"
        case "missing":
            return f"{place}: missing; it must be given"
        case "union_tag_invalid":
            given = error["ctx"]["tag"]
            return f"{place}.kind is {given!r}; {nearest(given, _variants(annotation))}"
        case "union_tag_not_found":
            return f"{place}.kind: missing; choose from {', '.join(_variants(annotation))}"
        case "literal_error":
            listed = error["ctx"]["expected"].replace(" or ", ", ").split(", ")
            right = nearest(value, [choice.strip("'") for choice in listed])
            return f"{place} is {value!r}; {right}"
        case "too_short" | "too_long":
            least, most = (error["ctx"].get(f"{name}_length") for name in ("min", "max"))
            right = f"{least} or more" if most is None else f"at most {most}"
            return f"{place} has {len(value)} entries; it should have {right}"
        case "value_error":
            message = str(error["ctx"]["error"])
            return f"{place}: {message}" if place else message
        case _:
            message = error["msg"].removeprefix("Input should ").removeprefix("be ")
            return f"{place or 'the configuration'} is {value!r}; it should be {message}"


def _walk(model: type[BaseModel], location: Iterable[str | int]) -> tuple[list[str], Any, Any]:
    """The path without union tags, the configuration that holds its last name, and its type."""
    path: list[str] = []
    owner: Any = model
    annotation: Any = model
    for part in location:
        variants = _variants(annotation)
        if part in variants:
            annotation = variants[part]
            continue
        if part in (ONE, EACH):
            continue
        path.append(str(part))
        if isinstance(part, int):
            # what an entry can be is what its list says
            continue
        owner = annotation
        fields = getattr(annotation, "model_fields", {})
        annotation = fields[part].annotation if part in fields else None
    return path, owner, annotation


def _variants(annotation: Any) -> dict[Any, Any]:
    """The members of a union of configurations, by the ``kind`` that names them."""
    found: dict[Any, Any] = {}
    for member in get_args(annotation):
        kind = getattr(member, "model_fields", {}).get("kind")
        if kind is None:
            found |= _variants(member)
        else:
            found |= dict.fromkeys(get_args(kind.annotation), member)
    return found


def _right_key(name: str, owner: Any) -> str:
    if name.isdecimal():
        return "a number leads into a list, and this is none"
    synonym = getattr(owner, "synonyms", {}).get(name)
    if synonym is not None:
        return f"here it is called {synonym!r}"
    return nearest(name, sorted(getattr(owner, "model_fields", {})))
