"""The recipes to choose from, and saving one."""

import re
from pathlib import Path
from typing import Any

import yaml

from basemake.build.config import (
    CONFIG_FOLDER,
    OWN_FOLDER,
    check_recipe,
    known_files,
    named_path,
    read_recipe,
)
from basemake.errors import LookError
from basemake.system.files import writing

MARK = "# Made by make tune, which replaces this file if it saves under the same name again."
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,60}")


def known_recipes(config: dict[str, Any]) -> dict[str, dict]:
    """Return the recipes of the checkout and of the working directory by name, read and checked.

    The one in use, which `config` names, comes first: by its path, if it is none of the others.
    Raises ConfigError, one sentence, if one of them has a value that is not allowed.
    """
    used = used_recipe(config)
    return {name: read_recipe(name) for name in dict.fromkeys([used, *known_files("recipe")])}


def used_recipe(config: dict[str, Any]) -> str:
    """Return the name of the recipe that `config` names, or its path if it has none."""
    path = named_path("recipe", config["recipe"]).resolve()
    names = {file.resolve(): name for name, file in known_files("recipe").items()}
    return names.get(path, str(config["recipe"]))


def save_recipe(name: str, description: str, steps: list[dict]) -> Path:
    """Write a recipe to config/recipes/{name}.yaml in the working directory; return its path.

    Only a file that this function wrote is replaced. Raises ConfigError, one sentence, if the
    recipe has a value that is not allowed, and LookError if it may not have that name, or if it
    cannot be written.
    """
    if not (isinstance(name, str) and NAME.fullmatch(name)):
        raise LookError(
            f"the name is {name!r}; allowed: small letters, digits, - and _, at most 61, beginning"
            " with a letter or a digit."
        )
    recipe = {"description": " ".join(str(description).split()), "steps": steps}
    check_recipe(recipe, f"the recipe {name!r}")
    path = OWN_FOLDER / "recipes" / f"{name}.yaml"
    shipped = CONFIG_FOLDER / "recipes" / path.name
    if shipped.exists() and not _is_ours(shipped):
        raise LookError(f"{name} is a recipe of the checkout; choose another name.")
    if path.exists() and not _is_ours(path):
        raise LookError(f"{path} was not made by make tune; choose another name.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with writing(path) as part:
            part.write_text(_as_text(recipe), encoding="utf-8")
    except OSError as error:
        raise LookError(f"{path} cannot be written ({error.strerror}); make it writable.") from None
    return path


def _is_ours(path: Path) -> bool:
    return path.read_text(encoding="utf-8", errors="replace").startswith(MARK)


def _as_text(recipe: dict) -> str:
    """Return a recipe as YAML, with a line a step."""
    lines = [MARK, yaml.safe_dump({"description": recipe["description"]}, width=1000).rstrip()]
    lines.append("steps:")
    for step in recipe["steps"]:
        named = {"step": step["step"], **step}
        text = yaml.safe_dump(named, default_flow_style=True, sort_keys=False, width=1000)
        lines.append(f"  - {text.strip()}")
    return "\n".join(lines) + "\n"
