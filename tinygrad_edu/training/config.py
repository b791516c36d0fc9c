"""Where settings come from: a YAML file and ``key=value`` overrides.

Unknown keys are mistakes, and all mistakes are reported at once, each with its place, what was found,
what is allowed and, where it helps, what was probably meant.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError

from ..errors import ConfigError, did_you_mean
from .schema import (
    BaseConfig,
    DataSection,
    ModelSection,
    RunConfig,
    TokenizerSection,
    TrainingSection,
    field_paths,
    leaves,
    section_type,
)
from .yaml_reader import read_yaml

__all__ = [
    "DataSection",
    "ModelSection",
    "RunConfig",
    "TokenizerSection",
    "TrainingSection",
    "config_differences",
    "dump_config",
    "load_config",
    "make_config",
]

Config = TypeVar("Config", bound=BaseConfig)


# -- reading ---------------------------------------------------------------------------------------


@dataclass
class _Sources:
    """Where each value came from, for messages."""

    where: str
    lines: Mapping[str, int] = field(default_factory=dict)
    overrides: dict[str, str] = field(default_factory=dict)

    def place(self, path: str, *others: str) -> str:
        """``config.yaml, line 3: model.d_model`` or ``override model.d_model=0``.

        Of a setting that was not given itself, the place is that of the first of `others` that was.
        """
        plain = path.partition("[")[0]
        if plain in self.overrides:
            return f"override {self.overrides[plain]}"
        for given in (plain, *others):
            if given in self.overrides:
                return f"override {self.overrides[given]}: {path}"
            if given in self.lines:
                return f"{self.where}, line {self.lines[given]}: {path}"
        return f"{self.where}: {path}"


def load_config(
    path: str | Path,
    overrides: Iterable[str] = (),
    schema: type[Config] = RunConfig,  # type: ignore[assignment]
) -> Config:
    """Read a config file, lay overrides over it, and check everything.

    Parameters
    ----------
    path : a YAML file with sections such as ``model:`` and ``training:``
    overrides : ``"training.max_steps=100"`` and the like; numbers as Python writes them, lists in brackets
    schema : :class:`RunConfig` or a subclass

    Raises
    ------
    ConfigError
        Listing every mistake, each with its line or override.
    """
    document = read_yaml(path)
    return make_config(
        document.values, overrides, schema, where=str(path), lines=document.lines, mistakes=document.mistakes
    )


def make_config(
    values: Mapping[str, Any],
    overrides: Iterable[str] = (),
    schema: type[Config] = RunConfig,  # type: ignore[assignment]
    *,
    where: str = "config",
    lines: Mapping[str, int] | None = None,
    mistakes: Iterable[str] = (),
) -> Config:
    """As :func:`load_config`, from values already read; `mistakes` made there are reported with the rest."""
    sources, wrong = _Sources(where, lines or {}), list(mistakes)
    if renewed := schema.in_new_form(values):
        raise ConfigError(_in_sections(*renewed, sources, wrong))
    merged = _filled(values, schema)
    wrong += _apply_overrides(merged, overrides, schema, sources)
    bad_paths: set[str] = set()
    try:
        config = schema.model_validate(merged)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            if detail["type"] != "rules":
                path = _dotted(detail["loc"])
                bad_paths.add(path.partition("[")[0])
                wrong.append(f"{sources.place(path)}: {_explain(detail, schema, merged)}")
        wrong += _broken_rules(merged, schema, bad_paths, sources)
    if wrong:
        count = "1 mistake" if len(wrong) == 1 else f"{len(wrong)} mistakes"
        raise ConfigError(f"{count} in the configuration:\n  " + "\n  ".join(wrong))
    return config


def _filled(values: Mapping[str, Any], schema: type[BaseModel]) -> dict[str, Any]:
    """A copy whose sections can be written to. One with nothing below it, or absent but needed, is an empty one."""
    copy = dict(values)
    for name, about in schema.model_fields.items():
        inner = section_type(about.annotation)
        if inner is None:
            continue
        if copy.get(name, None if about.is_required() else ...) is None:
            copy[name] = {}
        if isinstance(copy.get(name), Mapping):
            copy[name] = _filled(copy[name], inner)
    return copy


def _in_sections(
    values: Mapping[str, Any], notes: Iterable[tuple[str, str]], sources: _Sources, mistakes: Sequence[str]
) -> str:
    """The message about a config in an old form, which holds the new one, to paste."""
    text = f"{sources.where}: an old, flat configuration; settings now stand in sections. The same, to paste:\n\n"
    text += _as_yaml(values).rstrip()
    told = [f"{sources.place(path)}: {reason}" for path, reason in notes]
    return "\n  ".join([f"{text}\n\nTo look at:", *told, *mistakes]) if told or mistakes else text


def _dotted(location: Sequence[str | int]) -> str:
    """``("training", "betas", 0)`` as ``training.betas[0]``."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


_PLAIN_WORDS = {
    "a valid boolean": "true or false",
    "a valid string": "text",
    "a valid integer": "a whole number",
    "a valid number": "a number",
    "a valid tuple": "a list",
    "String should have": "text of",
    "greater than or equal to": "at least",
    "less than or equal to": "at most",
}


def _explain(detail: Any, schema: type[BaseConfig], values: Mapping[str, Any]) -> str:
    """What was found and what was wanted, from one of pydantic's error records."""
    location, found = detail["loc"], _show(detail["input"])
    if detail["type"] == "extra_forbidden":
        *section, name = location
        allowed = list(_fields_at(schema, section))
        hint = _meant_by(name, schema, values) or did_you_mean(name, allowed)
        return f"unknown key.{hint}" if hint else f"unknown key; wanted one of {', '.join(allowed)}"
    if detail["type"] == "missing":
        about = None if isinstance(location[-1], int) else _fields_at(schema, location[:-1])[location[-1]].description
        return f"missing; wanted {about}" if about else "missing"
    if detail["type"] == "model_type":
        return f"found {found}, wanted keys below it: {', '.join(_fields_at(schema, location))}"
    if detail["type"] == "literal_error":
        expected = str(detail["ctx"]["expected"])
        near = did_you_mean(str(detail["input"]), [o.strip("'") for o in expected.replace(" or ", ", ").split(", ")])
        return f"found {found}, wanted {expected}" + (f".{near}" if near else "")
    wanted = str(detail["msg"]).removeprefix("Input should be ").removeprefix("Input should ")
    for theirs, ours in _PLAIN_WORDS.items():
        wanted = wanted.replace(theirs, ours)
    return f"found {found}, wanted {wanted}"


def _show(value: Any) -> str:
    """A value as YAML would have it, cut short."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _meant_by(name: str, schema: type[BaseConfig], values: Mapping[str, Any]) -> str:
    """`` Did you mean 'training.seed'?`` where a setting of that name has its place elsewhere."""
    same = [path for path in field_paths(schema) if path.rpartition(".")[2] == name]
    meant = schema.meant_by(name, values) or (same[0] if same else None)
    return f" Did you mean {meant!r}?" if meant else ""


def _fields_at(schema: type[BaseModel], location: Sequence[Any]) -> Mapping[str, Any]:
    """Names and fields of the section at `location`."""
    for part in location:
        inner = section_type(schema.model_fields[part].annotation)
        if inner is None:
            return {}
        schema = inner
    return schema.model_fields


def _broken_rules(merged: Mapping[str, Any], schema: type[BaseConfig], bad: set[str], sources: _Sources) -> list[str]:
    """The rules whose fields are all right by themselves, on the values given or else the defaults."""
    view, found = _view(merged, schema), []
    for paths, rule in schema.rules:
        touched = {".".join(path.split(".")[:depth]) for path in paths for depth in range(1, path.count(".") + 2)}
        if not touched & bad and (text := rule(view)):
            found.append(f"{sources.place(*paths)}: {text}")
    return found


def _view(given: Any, schema: type[BaseModel]) -> SimpleNamespace:
    """Values as attributes; a section that is neither given nor there by default is None."""
    given, view = given if isinstance(given, Mapping) else {}, SimpleNamespace()
    for name, about in schema.model_fields.items():
        inner = section_type(about.annotation)
        if inner is None or (name not in given and about.get_default() is None):
            setattr(view, name, given.get(name, about.get_default()))
        else:
            setattr(view, name, _view(given.get(name), inner))
    return view


# -- overrides -------------------------------------------------------------------------------------


def _apply_overrides(
    merged: dict[str, Any], overrides: Iterable[str], schema: type[BaseConfig], sources: _Sources
) -> list[str]:
    """Set each override in `merged`; what is wrong with their form or name is returned."""
    wrong, paths = [], list(field_paths(schema))
    for text in overrides:
        path, equals, value = text.partition("=")
        path = path.strip()
        if not equals:
            wrong.append(f"override {text!r}: wanted key=value, such as training.max_steps=100")
        elif path in sources.overrides:
            wrong.append(f"override {text}: {path} was given before, as {sources.overrides[path]}")
        elif path not in paths:
            hint = _meant_by(path.rpartition(".")[2], schema, merged) or did_you_mean(path, paths)
            wrong.append(f"override {text}: unknown key {path!r}.{hint} Keys look like training.max_steps")
        else:
            sources.overrides[path] = text
            *sections, name = path.split(".")
            place: Any = merged
            for section in sections:
                place = place.setdefault(section, {}) if isinstance(place, dict) else None
            if isinstance(place, dict):  # if not, the section itself is a mistake, told elsewhere
                place[name] = _parse(value.strip(), _fields_at(schema, sections)[name].annotation)
    return wrong


def _parse(text: str, annotation: Any) -> Any:
    """An override's value: text where text is wanted; elsewhere 1e-3 is a number and null is None."""
    kinds = get_args(annotation) if get_origin(annotation) is not Literal else (str,)
    if text in ("null", "None") and (type(None) in kinds or str not in (*kinds, annotation)):
        return None
    if str in (annotation, *kinds):
        return text
    if text.startswith("["):
        inner = text.removeprefix("[").removesuffix("]")
        parts = [part.strip() for part in inner.split(",")] if inner.strip() else []
        return [part.strip("'\"") if _holds_text(annotation) else _parse(part, float) for part in parts]
    for convert in (int, float, {"true": True, "false": False}.__getitem__):
        try:
            return convert(text)
        except (ValueError, KeyError):
            continue
    return text


def _holds_text(annotation: Any) -> bool:
    return annotation is str or any(_holds_text(part) for part in get_args(annotation))


# -- writing and comparing -------------------------------------------------------------------------


def dump_config(config: BaseConfig) -> str:
    """YAML of every setting, defaults included; reads back as the same config."""
    return _as_yaml(config.model_dump(mode="json"))


def _as_yaml(values: Mapping[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(values, sort_keys=False, width=100)


def config_differences(old: Mapping[str, Any], new: Mapping[str, Any], ignore: Iterable[str] = ()) -> list[str]:
    """What differs between two configs as plain values: ``training.seed: 0 before, 1 now``, and so on."""
    before, after = dict(leaves(old)), dict(leaves(new))
    paths = sorted({*before, *after} - set(ignore))
    return [
        f"{path}: {_show(before.get(path))} before, {_show(after.get(path))} now"
        for path in paths
        if before.get(path) != after.get(path)
    ]
