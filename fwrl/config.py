"""Configurations: frozen, complete, and strict about what they do not know.

A configuration model stands beside the code that it configures. This file holds what they share:
the base class, and the translation of a mistake into one line that says where it is, what is wrong
and what would be right.
"""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal, TypeVar, cast, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

ConfigType = TypeVar("ConfigType", bound=BaseModel)


class ConfigError(ValueError):
    """A configuration that cannot be what its author meant. The message is one line."""


class Config(BaseModel):
    """The base of all configurations: immutable; an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    synonyms: ClassVar[Mapping[str, str]] = {}
    """Other libraries' names for our fields: an unknown key that is one of them is understood."""


def validate(model: type[ConfigType], values: Mapping[str, Any], where: str = "") -> ConfigType:
    """An instance of ``model`` made of ``values``.

    Raises:
        ConfigError: For the first mistake found; ``where`` opens its message.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ConfigError(_describe(model, cast(Mapping[str, Any], first), where)) from None


def nearest(name: str, choices: Iterable[str]) -> str:
    """What would be right instead of ``name``: the most similar choice, or all of them."""
    choices = list(choices)
    close = difflib.get_close_matches(str(name), choices, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"choose from {', '.join(choices)}" if choices else "nothing is possible here"


def _describe(model: type[BaseModel], error: Mapping[str, Any], where: str) -> str:
    location = [part for part in error["loc"] if isinstance(part, (str, int))]
    path, owner = _walk(model, location)
    place = ".".join(filter(None, [where, *path]))
    value = error["input"]
    match error["type"]:
        case "extra_forbidden":
            return f"{place}: no such key; {_right_key(path[-1], owner)}"
        case "missing":
            return f"{place}: missing; it must be given"
        case "union_tag_invalid" | "union_tag_not_found":
            context = error["ctx"]
            tag = context["discriminator"].strip("'")
            choices = [name.strip(" '") for name in context.get("expected_tags", "").split(",")]
            given = context.get("tag", value.get(tag) if isinstance(value, dict) else value)
            return f"{place}.{tag} is {given!r}; {nearest(str(given), filter(None, choices))}"
        case "literal_error":
            choices = error["ctx"]["expected"].replace(" or ", ", ").split(", ")
            return f"{place} is {value!r}; {nearest(str(value), [c.strip(chr(39)) for c in choices])}"
        case "value_error":
            message = str(error["ctx"]["error"])
            return f"{place}: {message}" if place else message
        case _:
            message = error["msg"].removeprefix("Input should be ")
            return f"{place} is {value!r}; it should be {message}"


def _walk(model: type[BaseModel], location: list[str | int]) -> tuple[list[str], Any]:
    """The path as its author wrote it, without union tags, and the type that owns its last name."""
    path: list[str] = []
    owner: Any = model
    annotation: Any = model
    for part in location:
        variant = _variant(annotation, part)
        if variant is not None:
            annotation = variant
            continue
        path.append(str(part))
        owner = annotation
        fields = getattr(annotation, "model_fields", {})
        annotation = fields[part].annotation if part in fields else None
    return path, owner


def _variant(annotation: Any, tag: str | int) -> Any:
    """The member of a union of configurations that ``tag`` names, if there is one."""
    for member in get_args(annotation):
        kind = getattr(member, "model_fields", {}).get("kind")
        if kind is None:
            found = _variant(member, tag)
            if found is not None:
                return found
        elif get_origin(kind.annotation) is Literal and tag in get_args(kind.annotation):
            return member
    return None


def _right_key(name: str, owner: Any) -> str:
    synonym = getattr(owner, "synonyms", {}).get(name)
    if synonym is not None:
        return f"here it is called {synonym!r}"
    return nearest(name, sorted(getattr(owner, "model_fields", {})))
