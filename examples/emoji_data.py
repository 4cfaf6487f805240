"""The Fluent Emoji flat set as pictures and names, and a CLIP-style tokenizer trained on those names.

Used by `90_train_emoji.py`; on its own it writes the chosen names and pictures for `benchmarks/own_emoji.py`:

    python examples/emoji_data.py iconify-json-fluent-emoji-flat-*.tgz icons.npz [--size 64]

The icons come from the npm package
`@iconify-json/fluent-emoji-flat` (MIT, by Microsoft Corporation): `npm pack` brings it as one .tgz file.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

PACKAGE = "@iconify-json/fluent-emoji-flat"
TONES = ("-medium-light", "-medium-dark", "-light", "-medium", "-dark")  # longest first
GENDERS = ("man", "woman", "men", "women")


class DataMissingError(Exception):
    """The icon data is not there; the message says how to get it."""


def icons_from_package(path: Path | None, work: Path) -> dict[str, Any]:
    """Read the iconify collection: {"icons": {name: {"body": svg}}, "width": 32, "height": 32, …}.

    path: the package's .tgz or its unpacked icons.json; None looks in `work` and, where there is none,
    runs `npm pack` there. Raises DataMissingError in one line.
    """
    if path is None:
        found = sorted(work.glob("iconify-json-fluent-emoji-flat-*.tgz"))
        if not found and (npm := shutil.which("npm")):
            work.mkdir(parents=True, exist_ok=True)
            subprocess.run([npm, "pack", "--silent", PACKAGE], cwd=work, check=False, capture_output=True)
            found = sorted(work.glob("iconify-json-fluent-emoji-flat-*.tgz"))
        path = found[-1] if found else None
    if path is None or not path.is_file():
        where = path or work / "iconify-json-fluent-emoji-flat-*.tgz"
        raise DataMissingError(
            f"no icon data: got no file {where}, expected the npm package's .tgz; "
            f"run `npm pack {PACKAGE}` and pass it with --data"
        )
    if path.suffix == ".json":
        return dict(json.loads(path.read_text(encoding="utf-8")))
    with tarfile.open(path) as archive:
        member = archive.extractfile("package/icons.json")
        if member is None:
            raise DataMissingError(
                f"got no package/icons.json in {path}; run `npm pack {PACKAGE}` and pass it with --data"
            )
        return dict(json.load(member))


def base_name(name: str) -> str:
    """Strip the skin tones from a name: "artist-medium-dark" → "artist"."""
    while tone := next((t for t in TONES if name.endswith(t)), None):
        name = name[: -len(tone)]
    return name


def chosen_names(names: Iterable[str]) -> list[str]:
    """The icons that are trained on, sorted: no skin tones, no man/woman doubles of a neutral icon.

    "artist-dark" goes because "artist" is there; "man-artist" goes because "artist" is there;
    "man-dancing" stays, for there is no neutral "dancing". The dropped ones differ from the kept ones in
    colour or hair only: at 64 pixels they would cost a model of this size its ability to tell them apart.
    """
    every = set(names)
    toneless = {n for n in every if base_name(n) == n or base_name(n) not in every}

    def neutral_exists(name: str) -> bool:
        gender, _, rest = name.partition("-")
        return gender in GENDERS and bool(rest) and (rest in toneless or f"person-{rest}" in toneless)

    return sorted(n for n in toneless if not neutral_exists(n))


def prompt_from_name(name: str) -> str:
    """ "crying-face" → "crying face"."""
    return name.replace("-", " ")


def picture_from_icon(icon: dict[str, Any], collection: dict[str, Any], size: int) -> npt.NDArray[np.uint8]:
    """Draw one icon on white: (size, size, 3) uint8 RGB, its aspect kept and the rest left white."""
    import resvg_py
    from PIL import Image

    width = icon.get("width", collection.get("width", 16))
    height = icon.get("height", collection.get("height", 16))
    side = max(width, height)
    box = f"{(width - side) / 2} {(height - side) / 2} {side} {side}"
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{size}" height="{size}" viewBox="{box}">{icon["body"]}</svg>'
    )
    png = bytes(
        resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, background="white", skip_system_fonts=True)
    )
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), dtype=np.uint8)


def pictures_from_collection(collection: dict[str, Any], names: Sequence[str], size: int) -> npt.NDArray[np.uint8]:
    """Draw the named icons: (N, size, size, 3) uint8 RGB on white."""
    return np.stack([picture_from_icon(collection["icons"][name], collection, size) for name in names])


def byte_symbols() -> list[str]:
    """The 256 printable stand-ins for bytes, in CLIP's (GPT-2's) order."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    hidden = [b for b in range(256) if b not in printable]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(len(hidden))]


def save_tokenizer(prompts: Sequence[str], folder: Path, vocab_size: int) -> None:
    """Train a byte-level BPE of CLIP's kind on the prompts and write it as a CLIPTokenizer folder.

    The vocabulary is laid out as CLIP's: 256 byte symbols, the same with "</w>", one token a merge, the two
    specials. Every byte has both forms, so no text becomes unknown. Writes tokenizer.json, vocab.json,
    merges.txt, tokenizer_config.json and special_tokens_map.json.
    """
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    start, end = "<|startoftext|>", "<|endoftext|>"
    symbols = byte_symbols()
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 2, initial_alphabet=symbols, end_of_word_suffix="</w>", show_progress=False
    )
    learner.train_from_iterator(prompts, trainer)
    pairs = json.loads(learner.to_str())["model"]["merges"]  # ["a", "b"], or "a b" in older versions
    merges = [(str(a), str(b)) for a, b in (p.split(" ") if isinstance(p, str) else p for p in pairs)]
    merges = merges[: vocab_size - 2 * len(symbols) - 2]
    tokens = list(dict.fromkeys([*symbols, *(s + "</w>" for s in symbols), *(a + b for a, b in merges), start, end]))
    vocab = {token: i for i, token in enumerate(tokens)}

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = CLIPTokenizer(
        vocab=vocab,
        merges=merges,
        unk_token=end,
        bos_token=start,
        eos_token=end,
        pad_token=end,
        model_max_length=77,
    )
    tokenizer.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    lines = "".join(f"{a} {b}\n" for a, b in merges)
    (folder / "merges.txt").write_text("#version: 0.2\n" + lines, encoding="utf-8")
    special = {"bos_token": start, "eos_token": end, "unk_token": end, "pad_token": end}
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Draw the chosen icons into one .npz: names, pictures.")
    parser.add_argument("data", type=Path, help="the npm package's .tgz, or its icons.json")
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", type=int, default=64, help="pixels a side")
    given = parser.parse_args(arguments)
    try:
        collection = icons_from_package(given.data, given.out.parent)
    except DataMissingError as missing:
        print(missing, file=sys.stderr)
        return 2
    names = chosen_names(collection["icons"])
    np.savez_compressed(
        given.out, names=np.array(names), pictures=pictures_from_collection(collection, names, given.size)
    )
    print(f"wrote {given.out}: {len(names)} icons, {given.size}×{given.size} pixels")
    return 0


if __name__ == "__main__":
    sys.exit(main())
