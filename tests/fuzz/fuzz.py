"""Coverage-guided fuzzing of what farzi reads: `python tests/fuzz/fuzz.py TARGET [SECONDS]`.

Targets: `settings` and `tensors` (an artifact whose farzi.json or farzi.safetensors is the input,
hashes made to fit), `log` (a table) and `jsonl`. An input is read right or refused in one line; all
else is a finding, whose bytes atheris leaves in the working folder. Seeds are in tests/fuzz/seeds.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

TARGETS = ("settings", "tensors", "log", "jsonl")


def target(name: str, folder: Path) -> Callable[[bytes], bool]:
    """A function of the input: True where it was read, False where it was refused in one line."""
    if name in ("settings", "tensors"):
        return _artifact("farzi.json" if name == "settings" else "farzi.safetensors", folder)
    return _log({"log": "log.csv", "jsonl": "log.jsonl"}[name], folder)


def _artifact(name: str, folder: Path) -> Callable[[bytes], bool]:
    from artifact_examples import toy_artifact
    from farzi.artifact import read_artifact, write_artifact

    place = write_artifact(toy_artifact(), folder / "artifact")
    manifest = place / "MANIFEST.sha256"
    lines = manifest.read_text().splitlines()

    def one(data: bytes) -> bool:
        (place / name).write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        kept = [f"{digest}  {name}" if line.endswith(f"  {name}") else line for line in lines]
        manifest.write_text("\n".join(kept) + "\n")
        return _is_read(lambda: read_artifact(place), str(place))

    return one


def _log(name: str, folder: Path) -> Callable[[bytes], bool]:
    from farzi.data import prepare

    file = folder / name

    def one(data: bytes) -> bool:
        file.write_bytes(data)
        return _is_read(lambda: prepare(file), str(folder))

    return one


def _is_read(read: Callable[[], object], place: str) -> bool:
    from farzi.errors import FarziError

    try:
        read()
    except FarziError as error:
        line = str(error)
        assert line.isprintable(), line
        assert len(line.replace(place, "")) < 1000, line
        return False
    return True


def main() -> None:
    """Fuzz one target until the seconds are over."""
    import atheris  # type: ignore[import-not-found,unused-ignore]

    name, seconds = sys.argv[1], (sys.argv[2:] or ["60"])[0]
    with atheris.instrument_imports(include=["farzi.artifact", "farzi.data"]):
        import farzi.artifact
        import farzi.data.preparation  # noqa: F401
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        corpus = folder / "corpus"
        shutil.copytree(HERE / "seeds" / name, corpus)  # what is found stays out of the seeds
        one = target(name, folder)
        arguments = [sys.argv[0], str(corpus), f"-max_total_time={seconds}", "-max_len=20000"]
        atheris.Setup(arguments, lambda data: one(data) and None)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
