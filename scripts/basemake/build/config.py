"""Read config, source and recipe files, check them against their schemas and fill in defaults.

Defaults are in the schemas (config/*.schema.yaml) and nowhere else.
"""

import difflib
import math
import re
from collections.abc import Iterator, Sequence
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from jsonschema import Draft202012Validator, validators
from jsonschema.exceptions import ValidationError, best_match

from basemake.build.source import Source
from basemake.errors import ConfigError

CONFIG_FOLDER = Path(__file__).resolve().parents[3] / "config"
OWN_FOLDER = Path("config")  # in the working directory
# Of steps: a parameter that must be less than another one.
LESS_THAN = {"highlight_compression": ("midpoint", "maximum"), "levels": ("black", "white")}
TYPE_NAMES = {
    "object": "a mapping",
    "array": "a list",
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
}


def _is_number(_: Any, value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_integer(_: Any, value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _fits(_: Any, pattern: str, value: Any, __: Any) -> Iterator[ValidationError]:
    """Yield an error if a text does not fit a pattern of ECMA-262, which JSON Schema uses.

    There `$` is the end of the text, in Python also a line break before it.
    """
    if isinstance(value, str) and not re.search(re.sub(r"\$(?=\)|$)", r"\\Z", pattern), value):
        yield ValidationError(f"text that fits {pattern}")


# JSON Schema counts 13.0 as an integer and YAML's .nan as a number; these checks do not.
Validator = validators.extend(
    Draft202012Validator,
    {"pattern": _fits},
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine_many(
        {"number": _is_number, "integer": _is_integer}
    ),
)


def check(document: Any, schema_name: str, where: str, files: Sequence[Path] = ()) -> dict:
    """Return a copy of `document` with the defaults of config/{schema_name}.schema.yaml filled in.

    `where` names the document in errors; `files` are the YAML files that it was read from, so that
    they can name the line. Raises ConfigError for one violation of the schema: a sentence with the
    key, its value and what is allowed.
    """
    schema = read_schema(schema_name)
    filled = _with_defaults(document, schema)
    error = best_match(Validator(schema).iter_errors(filled), key=_relevance)
    if error is not None:
        raise ConfigError(f"{_place(error, files) or where}: {_sentence(error)}")
    return filled


def _place(error: ValidationError, files: Sequence[Path]) -> str:
    """Return the file and line of what is wrong; empty if it is in none of `files`."""
    keys, value = list(error.absolute_path), error.instance
    if error.validator == "required":
        return ""  # no line has it
    if error.validator == "additionalProperties":
        keys.append(_unknown(error))
        value = value[keys[-1]]
    elif "propertyNames" in error.absolute_schema_path:
        keys.append(value)
        value = None
    for path in reversed(files):  # the last one counts
        line, node = 0, yaml.compose(path.read_text(encoding="utf-8"))
        for key in keys:
            line, node = _entries(node).get(str(key), (0, None))
        if line and (value is None or yaml.safe_load(yaml.serialize(node)) == value):
            return f"{path}, line {line}"
    return ""


def _entries(node: Any) -> dict[str, tuple[int, Any]]:
    """Return the line and the node of each entry of a YAML mapping or list, by key or number."""
    if isinstance(node, yaml.MappingNode):
        # A key's text as Python has its value: `no` is False.
        return {
            str(yaml.safe_load(yaml.serialize(name))): (name.start_mark.line + 1, entry)
            for name, entry in node.value
        }
    if isinstance(node, yaml.SequenceNode):
        return {str(n): (one.start_mark.line + 1, one) for n, one in enumerate(node.value)}
    return {}


@cache
def read_schema(name: str) -> dict:
    """Return the schema config/{name}.schema.yaml, which is read once."""
    text = (CONFIG_FOLDER / f"{name}.schema.yaml").read_text()
    return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # C takes a tenth


def read_yaml(path: Path, what: str) -> Any:
    """Return the content of a YAML file.

    Raises ConfigError, in which `what` names the file, if it cannot be read or is not YAML.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{what}: there is no file {path}; check the path.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{what}: {path} cannot be read ({error}).") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{what}: {path}{_not_yaml(error)}.") from None


def _not_yaml(error: Exception) -> str:
    """Return the line of a mistake in YAML, and what it is."""
    if not isinstance(error, yaml.MarkedYAMLError) or not error.problem_mark:
        return f" is not YAML ({' '.join(str(error).split())})"
    mark, begun = error.problem_mark, error.context_mark
    begin = f", {error.context} in line {begun.line + 1}" if begun else ""
    place = f", line {mark.line + 1}, column {mark.column + 1}"
    return f"{place} is not YAML ({error.problem}{begin})"


def read_source(name: str) -> Source:
    """Return the source that `name` gives: a name of `known_files`, or a path.

    Raises ConfigError, one sentence, if the file is missing or has a value that is not allowed.
    """
    path = named_path("source", name)
    source = check(read_yaml(path, f"source {name!r}"), "source", f"source {path}", [path])
    try:
        groups = re.compile(source["id_pattern"]).groupindex
    except re.error as error:
        groups = {}
        problem = f"it is not a regular expression ({error})"
    else:
        problem = "it has no group (?P<tile>...) that names the tile"
    if "tile" not in groups:
        raise ConfigError(f"source {name}: id_pattern is {source['id_pattern']!r}; {problem}.")
    for key, address in _addresses(source):
        try:
            urlsplit(address)
        except ValueError as error:
            raise ConfigError(
                f"source {name}: {key} is {address!r}, which is not an address ({error})."
            ) from None
    try:
        source.get("href", "").format(item="", tile="", asset="", year="", q="")
    except (LookupError, ValueError, TypeError, AttributeError):
        raise ConfigError(
            f"source {name}: href is {source['href']!r}; allowed placeholders: {{item}}, {{tile}},"
            " {asset}, {year}, {q}."
        ) from None
    return Source.of(source)


def _addresses(source: dict) -> Iterator[tuple[str, str]]:
    """Yield the key and the value of each web address in a source."""
    yield from ((key, source[key]) for key in ("url", "href") if key in source)
    credentials = source.get("credentials", {})
    keys = ("token_url", "endpoint")
    yield from ((f"credentials.{key}", credentials[key]) for key in keys if key in credentials)


def read_recipe(name: str) -> dict:
    """Return the recipe that `name` gives: a name of `known_files`, or a path.

    Raises ConfigError, one sentence, if the file is missing or has a value that is not allowed.
    """
    path = named_path("recipe", name)
    return check_recipe(read_yaml(path, f"recipe {name!r}"), f"recipe {path}", [path])


def check_recipe(document: Any, where: str, files: Sequence[Path] = ()) -> dict:
    """Return a recipe as it is used; `where` and `files` are as in `check`.

    Raises ConfigError, one sentence, if it has a value that is not allowed.
    """
    recipe = check(document, "recipe", where, files)
    # Parameters in one order, so that the order in which a file has them makes nothing stale.
    recipe["steps"] = [dict(sorted(step.items())) for step in recipe["steps"]]
    for number, step in enumerate(recipe["steps"]):
        # Curves have a pole where they are equal; a schema cannot compare two values.
        less, more = LESS_THAN.get(step["step"], ("", ""))
        if less and step[less] >= step[more]:
            raise ConfigError(
                f"{where}: steps.{number}.{less} is {step[less]}; allowed: less than"
                f" the step's {more}, {step[more]}."
            )
    return recipe


def check_fill(config: dict, source: Source) -> None:
    """Raise ConfigError if `fill` of a checked config names quarters that cannot fill."""
    fill = config["fill"]
    if isinstance(fill, int):
        return
    if config["quarter"] in fill:
        raise ConfigError(
            f"config: fill has {config['quarter']!r}, which is the map's own quarter;"
            " allowed: others."
        )
    if fill and source.dates:
        raise ConfigError(
            f"config: fill is {fill!r}, but the source has dates, {source.dates}, instead of the"
            " quarter's; allowed: a number of further items, or a source without dates."
        )


def credit_of(source: Source, config: dict) -> str:
    """Return the credit of a map's imagery; {year} is that of its quarter and of those that fill.

    `config` is checked.
    """
    fill = [] if isinstance(config["fill"], int) else config["fill"]
    years = sorted({quarter.partition("Q")[0] for quarter in (config["quarter"], *fill)})
    return source.attribution.replace("{year}", ", ".join(years))


def known_files(kind: str) -> dict[str, Path]:
    """Return the files of the sources or recipes that can be named, by name, sorted.

    They are those of config/sources/ or config/recipes/ in the checkout and in the working
    directory; one in the working directory comes before one of the same name in the checkout.
    """
    folders = [folder / f"{kind}s" for folder in (CONFIG_FOLDER, OWN_FOLDER)]
    found = {path.stem: path for folder in folders for path in folder.glob("*.yaml")}
    return dict(sorted(found.items()))


def named_path(kind: str, name: str) -> Path:
    """Return the path of the source or recipe that config names; ConfigError if there is none."""
    if name.endswith((".yaml", ".yml")) or "/" in name:
        return Path(name).expanduser()
    known = known_files(kind)
    if name not in known:
        raise ConfigError(
            f"{kind} is {name!r}, which is not one of: {', '.join(known)};"
            f" to use a file of your own give its path, ending in .yaml."
        )
    return known[name]


def _with_defaults(document: Any, schema: dict) -> Any:
    """Return a copy of `document` in which absent properties have their schema's default."""
    if not isinstance(document, dict):
        return document
    filled = dict(document)
    for key, subschema in schema.get("properties", {}).items():
        if key not in filled and "default" in subschema:
            filled[key] = deepcopy(subschema["default"])
        if key in filled:
            filled[key] = _with_defaults(filled[key], subschema)
    return filled


def _relevance(error: ValidationError) -> tuple[int, str]:
    """Sort key of best_match: anyOf and oneOf, which give no single reason, come last."""
    return (error.validator not in ("anyOf", "oneOf"), str(list(error.absolute_path)))


def _sentence(error: ValidationError) -> str:
    """Return a sentence with the key, its value and what is allowed."""
    key = ".".join(str(part) for part in error.absolute_path)
    value = "empty" if error.instance is None else repr(error.instance)
    subject = f"{key} is {value}" if key else "the file"
    schema = error.schema
    if "propertyNames" in error.absolute_schema_path:
        subject = f"{key} has the name {error.instance!r}"
    if error.validator == "additionalProperties":
        return _unknown_key(error, key)
    if error.validator == "required":
        missing = next(name for name in error.validator_value if name not in error.instance)
        return f"{key + '.' if key else ''}{missing} is missing; it must be given."
    allowed = {
        "enum": lambda: "allowed: " + ", ".join(str(value) for value in error.validator_value),
        "const": lambda: f"allowed: {error.validator_value}",
        "type": lambda: "allowed: " + _types(error.validator_value, schema),
        "minimum": lambda: f"allowed: at least {error.validator_value}",
        "maximum": lambda: f"allowed: at most {error.validator_value}",
        "exclusiveMinimum": lambda: f"allowed: more than {error.validator_value}",
        "minProperties": lambda: f"allowed: at least {error.validator_value} entry",
        "minItems": lambda: f"allowed: at least {error.validator_value} entry",
        "uniqueItems": lambda: "each entry may stand once",
    }.get(error.validator, lambda: f"allowed: {schema.get('description', error.message)}")()
    if error.validator == "type" and not key:
        subject = f"the file's content is {error.instance!r}"
    return f"{subject}; {allowed}."


def _unknown_key(error: ValidationError, key: str) -> str:
    known, unknown = sorted(error.schema.get("properties", {})), _unknown(error)
    close = difflib.get_close_matches(str(unknown), known, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    value = error.instance[unknown]
    return (
        f"unknown key {unknown!r} with value {value!r}{' in ' + key if key else ''}{hint};"
        f" allowed: {', '.join(known)}."
    )


def _unknown(error: ValidationError) -> Any:
    """Return the first key that the schema does not know."""
    known = error.schema.get("properties", {})
    return next(name for name in error.instance if name not in known)


def _types(names: str | list[str], schema: dict) -> str:
    types = " or ".join(TYPE_NAMES[name] for name in ([names] if isinstance(names, str) else names))
    return f"{types}, {schema['description']}" if "description" in schema else types
