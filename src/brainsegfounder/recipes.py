"""Reading a recipe: one YAML file and `--set` fill the sections of `settings`.

Order: default < file < `--set`. Nothing else configures a run: no include, no interpolation, no
import string, no environment variable. Needs no torch.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from brainsegfounder.errors import RecipeError
from brainsegfounder.settings import KINDS, ReadingSettings, Recipe, Region


class _Loader(yaml.SafeLoader):
    """YAML 1.2 scalars: `1e-4` is a number, `no` and `off` are text."""

    yaml_implicit_resolvers = {
        key: [(tag, regexp) for tag, regexp in pairs if not tag.endswith((":bool", ":float"))]
        for key, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


class _Dumper(yaml.SafeDumper):
    """Puts quotes around text that the loader would take for a number, such as a name `12e5`."""


_FLOAT = re.compile(r"^[-+]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][-+]?\d+)?$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(true|false)$"), list("tf"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def shipped_recipes() -> dict[str, Path]:
    """Name and file of every recipe that comes with the package."""
    folder = Path(str(resources.files("brainsegfounder") / "recipe_files"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_recipe(name_or_path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and lay `--set` values over it.

    Args:
        name_or_path: Name of a shipped recipe, a YAML file, or a run folder (its
            `recipe.resolved.yaml`).
        overrides: `section.field=value` texts, later ones win; values are YAML.

    Raises:
        RecipeError: File or field unknown, a value impossible; the message names file, field,
            what was found and what was expected, with the nearest name where one is close.
    """
    path = _find(name_or_path)
    tree = _read_yaml(path)
    for text in overrides:
        _lay_over(tree, text)
    return parse_recipe(tree, path.name)


def parse_recipe(tree: Mapping[str, Any], source: str) -> Recipe:
    """Validate a recipe given as nested mappings; `source` names it in messages."""
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise RecipeError("; ".join(_explain_error(source, e) for e in error.errors())) from None


def change_recipe(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """A recipe with some fields, named as `section.field`, set to other values.

    Raises:
        RecipeError: There is no such field, or the value is impossible.
    """
    tree = recipe.model_dump(mode="json")
    for dotted, value in changes.items():
        *parents, last = dotted.split(".")
        node = tree
        for parent in parents:
            node = node[parent]
        node[last] = value
    return parse_recipe(tree, recipe.name)


def load_reading(overrides: Sequence[str]) -> ReadingSettings:
    """What `--set reading.FIELD=VALUE` allows of files, for verbs that take no recipe.

    Raises:
        RecipeError: Another section is named, a field is unknown or a value impossible.
    """
    tree: dict[str, Any] = {}
    for text in overrides:
        _lay_over(tree, text)
    strange = [section for section in tree if section != "reading"]
    if strange:
        raise RecipeError(
            f"--set {strange[0]}: without a recipe only reading.FIELD=VALUE can be set "
            f"({', '.join(ReadingSettings.model_fields)})."
        )
    try:
        return ReadingSettings.model_validate(tree.get("reading", {}))
    except ValidationError as error:
        reasons = [{**e, "loc": ("reading", *e["loc"])} for e in error.errors()]
        raise RecipeError("; ".join(_explain_error("--set", e) for e in reasons)) from None


def dump_recipe(recipe: Recipe) -> str:
    """The complete recipe as YAML text; feeding it back gives the same recipe."""
    tree = recipe.model_dump(mode="json")
    text = yaml.dump(
        tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None
    )
    return str(text)


def fields(section: type[BaseModel] = Recipe, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted name and description of every setting, in the order of the file."""
    for name, field in section.model_fields.items():
        dotted = f"{prefix}{name}"
        yield dotted, field.description or ""
        inner = _sections_of(field.annotation)
        if len(inner) == 1:
            yield from fields(inner[0], f"{dotted}.")
        elif inner:
            yield from _fields_of_kinds(inner, f"{dotted}.")


def _fields_of_kinds(kinds: Sequence[type[BaseModel]], prefix: str) -> Iterator[tuple[str, str]]:
    """Fields of sections of which one is chosen by `kind`; each says whose it is."""
    meanings: dict[str, dict[str, list[str]]] = {}
    for section in kinds:
        for name, meaning in fields(section, prefix):
            kind = section.model_fields["kind"].default
            meanings.setdefault(name, {}).setdefault(meaning, []).append(kind)
    for name, owners in meanings.items():
        yield name, " ".join(f"{', '.join(k)}: {meaning}" for meaning, k in owners.items())


def _sections_of(annotation: Any) -> list[type[BaseModel]]:
    found = []
    for candidate in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            found.append(candidate)
        elif get_origin(candidate) is Annotated:
            found += _sections_of(get_args(candidate)[0])
    return [section for section in found if section is not Region]


def _find(name_or_path: str | os.PathLike[str]) -> Path:
    path, shipped = Path(name_or_path), shipped_recipes()
    for candidate in (path / "recipe.resolved.yaml", path, shipped.get(str(path), path)):
        if candidate.is_file():
            return candidate
    raise RecipeError(
        f"{name_or_path}: no such recipe file or name{_did_you_mean(str(name_or_path), shipped)} "
        f"(shipped recipes: {', '.join(shipped)})."
    )


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = _Loader(path.read_text(encoding="utf-8")).get_single_data()
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read: {error}") from None
    if not isinstance(tree, dict):
        raise RecipeError(f"{path}: found {type(tree).__name__}; expected `field: value` lines.")
    return tree


def _lay_over(tree: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise RecipeError(f"--set {text}: expected section.field=value.")
    try:
        parsed = _Loader(value).get_single_data()
    except yaml.YAMLError:
        raise RecipeError(f"--set {key}: '{value}' is not a YAML value.") from None
    *parents, last = key.split(".")
    # A section of another kind has other fields: it starts afresh.
    if last == "kind" and parents:
        key, parsed = ".".join(parents), {"kind": parsed}
        *parents, last = parents
    node = tree
    for parent in parents:
        if not isinstance(node.get(parent), dict):
            node[parent] = {}
        node = node[parent]
    node[last] = parsed


def _explain_error(source: str, error: Any) -> str:
    dotted = ".".join(str(part) for part in error["loc"] if part not in KINDS)
    if error["type"] == "extra_forbidden":
        known = dict(fields())
        if dotted in known:
            owners = known[dotted].partition(":")[0]
            kind = next(part for part in error["loc"] if part in KINDS)
            return f"{source}: {dotted}: no field of kind {kind}; it belongs to {owners}"
        return f"{source}: {dotted}: no such field{_did_you_mean(dotted, known)}"
    if error["type"] == "union_tag_invalid":
        found = str(error["ctx"]["tag"])
        hint = _did_you_mean(found, KINDS) or f"; expected one of {', '.join(KINDS)}"
        return f"{source}: {dotted}.kind: no such kind '{found}'{hint}"
    if error["type"] == "missing":
        return f"{source}: {dotted}: missing; expected a value"
    reason = error["msg"].removeprefix("Value error, ")
    reason = reason[:1].lower() + reason[1:]
    if error["type"] == "value_error":
        return f"{source}: {dotted + ': ' if dotted else ''}{reason}"
    return f"{source}: {dotted}: found {error['input']!r}; {reason}"


def _did_you_mean(found: str, known: Sequence[str] | Mapping[str, object]) -> str:
    close = difflib.get_close_matches(found, list(known), n=1, cutoff=0.6)
    if not close:
        leaf = found.rsplit(".", 1)[-1]
        leaves = {name.rsplit(".", 1)[-1]: name for name in known}
        close = [leaves[c] for c in difflib.get_close_matches(leaf, list(leaves), n=1, cutoff=0.7)]
    return f"; did you mean '{close[0]}'?" if close else ""


def explain_fields(name: str | None = None) -> list[tuple[str, str]]:
    """Names and meanings of a field, a section's fields, or all.

    Raises:
        RecipeError: No field or section of that name.
    """
    known = list(fields())
    chosen = [(n, text) for n, text in known if name is None or f"{n}.".startswith(f"{name}.")]
    if name is not None and not chosen:
        raise RecipeError(f"{name}: no such field{_did_you_mean(name, [n for n, _ in known])}.")
    return chosen
