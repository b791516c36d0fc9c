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
from .schema import DataSection, ModelSection, RunConfig, TokenizerSection, TrainingSection
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

Config = TypeVar("Config", bound=RunConfig)


# -- reading ---------------------------------------------------------------------------------------


@dataclass
class _Sources:
    """Where each value came from, for messages."""

    where: str
    lines: Mapping[str, int] = field(default_factory=dict)
    overrides: dict[str, str] = field(default_factory=dict)

    def place(self, path: str) -> str:
        """``config.yaml, line 3: model.d_model`` or ``override model.d_model=0``."""
        for known, text in self.overrides.items():
            if path == known or path.startswith(f"{known}["):
                return f"override {text}"
        plain = path.partition("[")[0]
        line = self.lines.get(plain)
        return f"{self.where}, line {line}: {path}" if line else f"{self.where}: {path}"


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
    merged = {key: dict(value) if isinstance(value, Mapping) else value for key, value in values.items()}
    for section in schema.model_fields:
        if merged.get(section, ...) is None:  # 'training:' with nothing below it
            del merged[section]
    wrong += _apply_overrides(merged, overrides, schema, sources)
    bad_paths: set[str] = set()
    try:
        config = schema.model_validate(merged)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            if detail["type"] != "rules":
                path = _dotted(detail["loc"])
                bad_paths.add(path.partition("[")[0])
                wrong.append(f"{sources.place(path)}: {_explain(detail, schema)}")
        wrong += _broken_rules(merged, schema, bad_paths, sources)
    if wrong:
        count = "1 mistake" if len(wrong) == 1 else f"{len(wrong)} mistakes"
        raise ConfigError(f"{count} in the configuration:\n  " + "\n  ".join(wrong))
    return config


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


def _explain(detail: Any, schema: type[RunConfig]) -> str:
    """What was found and what was wanted, from one of pydantic's error records."""
    location, found = detail["loc"], _show(detail["input"])
    if detail["type"] == "extra_forbidden":
        *section, name = location
        allowed = list(_fields_of(schema, str(section[0]))) if section else list(schema.model_fields)
        elsewhere = [path for path in _field_paths(schema) if path.rpartition(".")[2] == name]
        hint = f" Did you mean {elsewhere[0]!r}?" if elsewhere else did_you_mean(str(name), allowed)
        return f"unknown key.{hint}" if hint else f"unknown key; wanted one of {', '.join(allowed)}"
    if detail["type"] == "model_type":
        return f"found {found}, wanted keys below it: {', '.join(_fields_of(schema, str(location[0])))}"
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


def _fields_of(schema: type[RunConfig], section: str) -> Mapping[str, Any]:
    annotation = schema.model_fields[section].annotation
    return annotation.model_fields if isinstance(annotation, type) and issubclass(annotation, BaseModel) else {}


def _field_paths(schema: type[RunConfig]) -> list[str]:
    return [f"{section}.{name}" for section in schema.model_fields for name in _fields_of(schema, section)]


def _broken_rules(merged: Mapping[str, Any], schema: type[RunConfig], bad: set[str], sources: _Sources) -> list[str]:
    """The rules whose fields are all right by themselves, on the values given or else the defaults."""
    view = SimpleNamespace()
    for section in schema.model_fields:
        given = merged.get(section)
        given = given if isinstance(given, Mapping) else {}
        fields = _fields_of(schema, section)
        setattr(view, section, SimpleNamespace(**{n: given.get(n, f.get_default()) for n, f in fields.items()}))
    found = []
    for paths, rule in schema.rules:
        touched = {path.partition(".")[0] for path in paths} | set(paths)
        if not touched & bad and (text := rule(view)):
            found.append(f"{sources.place(paths[0])}: {text}")
    return found


# -- overrides -------------------------------------------------------------------------------------


def _apply_overrides(
    merged: dict[str, Any], overrides: Iterable[str], schema: type[RunConfig], sources: _Sources
) -> list[str]:
    """Set each override in `merged`; what is wrong with their form or name is returned."""
    wrong, paths = [], _field_paths(schema)
    for text in overrides:
        path, equals, value = text.partition("=")
        path = path.strip()
        if not equals:
            wrong.append(f"override {text!r}: wanted key=value, such as training.max_steps=100")
        elif path in sources.overrides:
            wrong.append(f"override {text}: {path} was given before, as {sources.overrides[path]}")
        elif path not in paths:
            same = [known for known in paths if known.rpartition(".")[2] == path.rpartition(".")[2]]
            hint = f" Did you mean {same[0]!r}?" if same else did_you_mean(path, paths)
            wrong.append(f"override {text}: unknown key {path!r}.{hint} Keys look like training.max_steps")
        else:
            sources.overrides[path] = text
            section, name = path.split(".")
            annotation = _fields_of(schema, section)[name].annotation
            if not isinstance(merged.setdefault(section, {}), dict):
                continue  # the section itself is a mistake, told elsewhere
            merged[section][name] = _parse(value.strip(), annotation)
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
        return [_parse(part.strip(), float) for part in inner.split(",")]
    for convert in (int, float, {"true": True, "false": False}.__getitem__):
        try:
            return convert(text)
        except (ValueError, KeyError):
            continue
    return text


# -- writing and comparing -------------------------------------------------------------------------


def dump_config(config: RunConfig) -> str:
    """YAML of every setting, defaults included; reads back as the same config."""
    import yaml

    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, width=100)


def config_differences(old: Mapping[str, Any], new: Mapping[str, Any], ignore: Iterable[str] = ()) -> list[str]:
    """What differs between two configs as plain values: ``training.seed: 0 before, 1 now``, and so on."""
    skip, found = set(ignore), []
    for section in sorted({*old, *new}):
        before, after = old.get(section) or {}, new.get(section) or {}
        for name in sorted({*before, *after}):
            path = f"{section}.{name}"
            if path not in skip and before.get(name) != after.get(name):
                found.append(f"{path}: {_show(before.get(name))} before, {_show(after.get(name))} now")
    return found
