"""YAML read so that nothing means something else than it looks like.

YAML 1.1, which PyYAML speaks, has traps for those who write settings: ``1e-3`` is a text, ``no`` is
False, ``1:30`` is ninety, a key given twice silently wins, an alias can blow up to gigabytes. Each is
a mistake here, told with its line and the form that was probably meant; all of them at once.

Source: the YAML 1.1 type repository, https://yaml.org/type/.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import ConfigError

SIZE_LIMIT = 1 << 20  # bytes; a config has some thousands
_DEPTH_LIMIT = 20

_TAG = "tag:yaml.org,2002:"
_NUMBER_AS_TEXT = re.compile(r"[-+]?(\d[\d_]*\.?\d*|\.\d+)[eE][-+]?\d+")
_DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9]*(_[0-9]+)*)")
_TRUTHS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}


@dataclass
class YamlDocument:
    """What a YAML text holds.

    Attributes
    ----------
    values : mappings, lists, text, numbers, truth values and None
    lines : dotted path of each key to its line, counted from 1
    mistakes : everything that is wrong, each with its line
    """

    values: dict[str, Any]
    lines: dict[str, int] = field(default_factory=dict)
    mistakes: list[str] = field(default_factory=list)


def read_yaml(path: str | Path) -> YamlDocument:
    """Read a YAML file whose top level is a mapping.

    Raises
    ------
    ConfigError
        If the file is missing, no text, too large, or no YAML. Mistakes of content
        are collected in the result.
    """
    path = Path(path)
    try:
        if path.stat().st_size > SIZE_LIMIT:
            raise ConfigError(f"{path}: {path.stat().st_size:,} bytes long, wanted at most {SIZE_LIMIT:,} in a config")
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        near = [p.name for pattern in ("*.yaml", "*.yml") for p in sorted(path.parent.glob(pattern))]
        hint = f"; there is: {', '.join(near)}" if near else ""
        raise ConfigError(f"{path}: no such config file{hint}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: not UTF-8 text: byte {error.object[error.start]:#04x} at offset {error.start}"
        ) from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, where: str = "config") -> YamlDocument:
    """As :func:`read_yaml`, from text; `where` names it in messages."""
    import yaml

    document = YamlDocument({})
    try:
        node = _compose(text, where, document)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{where}, line {mark.line + 1}, column {mark.column + 1}" if mark else where
        problem = getattr(error, "problem", None) or str(error)
        raise ConfigError(f"{place}: not readable as YAML: {problem}") from None
    except RecursionError:
        raise ConfigError(f"{where}: nested too deeply; a config has three levels") from None
    if node is None:
        return document
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(
            f"{where}, line {node.start_mark.line + 1}: found a {node.id}, wanted sections like 'training:'"
        )
    document.values = _Builder(where, document).build(node, "", 0)
    return document


def _compose(text: str, where: str, document: YamlDocument) -> Any:
    """The tree of nodes of one document. Anchors, aliases and tags become mistakes, and nothing else."""
    import yaml

    class Composer(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            event: Any = self.peek_event()  # type: ignore[no-untyped-call]
            line = f"{where}, line {event.start_mark.line + 1}:"
            if isinstance(event, yaml.AliasEvent):
                document.mistakes.append(f"{line} alias *{event.anchor} is not allowed; write the value out")
                self.get_event()  # type: ignore[no-untyped-call]
                return yaml.ScalarNode(_TAG + "null", "")
            if event.anchor is not None:
                document.mistakes.append(
                    f"{line} anchor &{event.anchor} is not allowed; write the value out where it is used"
                )
                event.anchor = None
            if event.tag is not None:
                document.mistakes.append(
                    f"{line} tag {event.tag.replace(_TAG, '!!')} is not allowed; write plain values"
                )
                event.tag, event.implicit = None, (True, True)
            return super().compose_node(parent, index)

    loader = Composer(text)
    try:
        return loader.get_single_node()
    finally:
        loader.dispose()


class _Builder:
    """Python values from nodes, with the traps noted down on the way."""

    def __init__(self, where: str, document: YamlDocument):
        self.where, self.document = where, document

    def mistake(self, node: Any, path: str, message: str) -> None:
        at = f" {path}:" if path else ""
        self.document.mistakes.append(f"{self.where}, line {node.start_mark.line + 1}:{at} {message}")

    def build(self, node: Any, path: str, depth: int) -> Any:
        import yaml

        if depth > _DEPTH_LIMIT:
            raise ConfigError(
                f"{self.where}, line {node.start_mark.line + 1}: nested too deeply; a config has three levels"
            )
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(item, f"{path}[{i}]", depth + 1) for i, item in enumerate(node.value)]
        return self.mapping(node, path, depth)

    def mapping(self, node: Any, path: str, depth: int) -> dict[str, Any]:
        import yaml

        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag not in (
                _TAG + "str",
                _TAG + "merge",
            ):
                shown = key_node.value if isinstance(key_node, yaml.ScalarNode) else key_node.id
                self.mistake(key_node, path, f"key {shown!r} is not text; put it in quotes if it is meant")
                continue
            key = key_node.value
            inner = f"{path}.{key}" if path else key
            if key_node.tag == _TAG + "merge":
                self.mistake(key_node, path, "merge keys (<<) are not allowed; write the values out")
            elif key in result:
                first = self.document.lines[inner]
                self.mistake(key_node, inner, f"given twice, first on line {first}; keep one of them")
            else:
                self.document.lines[inner] = key_node.start_mark.line + 1
                result[key] = self.build(value_node, inner, depth + 1)
        return result

    def scalar(self, node: Any, path: str) -> Any:
        """The value of a scalar. Where YAML and the eye disagree, a mistake and the value that was meant."""
        text, kind = node.value, node.tag.removeprefix(_TAG)
        quoted = node.style is not None
        if kind == "str":
            if not quoted and _NUMBER_AS_TEXT.fullmatch(text):
                meant = _with_dot(text)
                self.mistake(node, path, f"{text} is text to YAML 1.1, not a number; write {meant}")
                return float(meant)
            return text
        if kind == "null":
            return None
        if kind == "bool":
            if text not in _TRUTHS:
                value = text.lower() in ("yes", "on")
                meant = str(value).lower()
                self.mistake(
                    node,
                    path,
                    f'{text} means {meant} to YAML 1.1; write {meant}, or "{text}" if text is meant',
                )
                return value
            return _TRUTHS[text]
        if kind in ("int", "float"):
            return self.number(node, path, text, kind)
        self.mistake(node, path, f'{text} is read as a {kind} by YAML 1.1; write "{text}" if text is meant')
        return text

    def number(self, node: Any, path: str, text: str, kind: str) -> Any:
        if ":" in text:
            self.mistake(node, path, f'{text} is a number to base 60 in YAML 1.1; write "{text}" if text is meant')
            return text
        if kind == "float":
            named = {".inf": "inf", "+.inf": "inf", "-.inf": "-inf", ".nan": "nan"}
            return float(named.get(text.lower(), text))
        if not _DECIMAL.fullmatch(text):
            self.mistake(
                node,
                path,
                f"{text} is an octal, hexadecimal or binary number to YAML 1.1; write it in decimal",
            )
            return text
        if len(text) > 300:
            self.mistake(node, path, f"a number of {len(text):,} digits")
            return 0
        return int(text)


def _with_dot(text: str) -> str:
    """The same number as YAML 1.1 wants it: with a dot, and a sign in the exponent."""
    mantissa, exponent = re.split("[eE]", text.replace("_", ""))
    mantissa = mantissa if "." in mantissa else mantissa + ".0"
    return f"{mantissa}e{exponent if exponent[0] in '+-' else '+' + exponent}"
