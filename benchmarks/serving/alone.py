"""Every picture drawn alone, in a process of its own: what those of the server are compared with.

python -m latentrt.benchmarks.serving.alone BUNDLE REQUESTS FOLDER [--lora FILE]

REQUESTS has a line of JSON a picture, with the fields of ``Asked``; FOLDER gets DIGEST.png of each that is not there.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from latentrt.benchmarks.serving.asked import Asked
from latentrt.benchmarks.serving.mix import STYLE


def draw_alone(bundle: Path, pictures: Iterable[Asked], folder: Path, lora: Path | None) -> None:
    """Draws all that are missing in ``folder``, one after the other.

    Raises:
        subprocess.CalledProcessError: one cannot be drawn; its reason is on standard error.
    """
    folder.mkdir(parents=True, exist_ok=True)
    requests = folder / "requests.jsonl"
    requests.write_text("".join(json.dumps(asdict(one)) + "\n" for one in pictures), "utf-8")
    command = [sys.executable, "-m", "latentrt.benchmarks.serving.alone", str(bundle), str(requests), str(folder)]
    subprocess.run([*command, *(() if lora is None else ("--lora", str(lora)))], check=True)


def main() -> None:
    """The process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("requests", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--lora", type=Path)
    arguments = parser.parse_args()
    import latentrt

    with latentrt.open(arguments.bundle) as pipe:
        if arguments.lora is not None:
            pipe.load_lora(arguments.lora, name=STYLE)
        for line in arguments.requests.read_text("utf-8").splitlines():
            asked = Asked(**json.loads(line))
            path = arguments.folder / f"{asked.digest}.png"
            if not path.is_file():
                asked.draw(pipe).save(path)


if __name__ == "__main__":
    main()
