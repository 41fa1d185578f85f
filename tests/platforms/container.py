"""Do what the Containerfile says in bare roots, and run the demo in the result.

`python tests/platforms/container.py FOLDER`, as root: for machines without a container engine. It
reads the same file as an engine does, and knows those of its instructions that are used in it.
"""

import json
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from roots import Root

CHECKOUT = Path(__file__).resolve().parents[2]
SUITES = {"docker.io/library/debian:12-slim": "bookworm"}
MEGABYTES = 1200  # that an image may have


@dataclass
class Image:
    """A stage of a Containerfile: its root, and what is set for commands in it."""

    root: Root
    folder: str = "/"
    user: str = "0:0"
    environment: dict[str, str] = field(default_factory=dict)
    entrypoint: list[str] = field(default_factory=list)

    def run(self, command: str) -> None:
        """Run a command as the build of an image does; exit with what it printed if it fails."""
        done = self.root.run(
            command, folder=self.folder, environment=self.environment, user=self.user
        )
        if done.returncode:
            sys.exit(f"{command}: status {done.returncode}\n{done.stdout}")

    def copy(self, words: list[str], stages: dict[str, "Image"]) -> None:
        """Copy files of the checkout that git knows, or of another stage."""
        base = CHECKOUT
        if words[0].startswith("--from="):
            base = stages[words.pop(0).removeprefix("--from=")].root.path
        source, target = base / words[0].lstrip("/"), self.root.path / self.folder[1:] / words[1]
        if base == CHECKOUT:
            listed = subprocess.run(
                ["git", "ls-files", words[0]],
                cwd=CHECKOUT,
                capture_output=True,
                text=True,
                check=True,
            )
            for name in listed.stdout.splitlines():
                within = Path(name).relative_to(words[0]) if source.is_dir() else Path(name).name
                (target / within).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(CHECKOUT / name, target / within)
        else:
            shutil.copytree(source, target, symlinks=True)


def build(folder: Path) -> Image:
    """Build the last stage of the Containerfile."""
    stages: dict[str, Image] = {}
    lines = (CHECKOUT / "Containerfile").read_text().splitlines()
    for line in (line for line in lines if line and not line.startswith("#")):
        print(line, flush=True)
        word, rest = line.split(" ", 1)
        words = shlex.split(rest)
        if word == "FROM":
            name = words[2] if len(words) == 3 else "last"
            image = stages[name] = Image(Root.bare(SUITES[words[0]], folder / name))
        elif word == "RUN":
            image.run(rest)
        elif word == "COPY":
            image.copy(words, stages)
        elif word == "WORKDIR":
            image.folder = rest
            (image.root.path / rest[1:]).mkdir(parents=True, exist_ok=True)
        elif word == "USER":
            image.user = rest
        elif word == "ENV":
            image.environment |= dict(one.split("=", 1) for one in words)
        elif word == "ENTRYPOINT":
            image.entrypoint = json.loads(rest)
        else:
            sys.exit(f"{word} is an instruction that this script does not know")
    return image


def main(folder: Path) -> None:
    """Build the image in a folder, and run the demo with nothing writable but one folder."""
    image = build(folder)
    size = image.root.megabytes()
    print(f"{size:.0f} MB")
    if size > MEGABYTES:
        sys.exit(f"that is more than {MEGABYTES} MB")
    try_out(image, folder / "map")


def try_out(image: Image, work: Path) -> None:
    """Make the demo in `work`, mounted as the only folder that can be written to."""
    shutil.copytree(CHECKOUT / "config", work / "config")
    user, group = image.user.split(":")
    subprocess.run(["chown", "-R", f"{user}:{group}", work], check=True)
    for arguments in (["manifest"], ["--cores", "2"], ["--cores", "2"]):
        done = image.root.run(
            shlex.join([*image.entrypoint, *arguments]),
            folder=image.folder,
            environment=image.environment,
            user=image.user,
            writable={image.folder: work},
            read_only=True,
        )
        print(done.stdout[-2000:])
        if done.returncode:
            sys.exit(f"snakemake {' '.join(arguments)}: status {done.returncode}")
    if "Nothing to be done" not in done.stdout:
        sys.exit("the second run had something to do")
    print(*sorted(str(path.relative_to(work)) for path in work.glob("*/*")), sep="\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
