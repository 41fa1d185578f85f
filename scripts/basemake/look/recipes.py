"""The recipes to choose from, and one to save."""

from typing import Any

from basemake.build.config import known_files, named_path, read_recipe


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
