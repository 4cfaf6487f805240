"""The Fluent Emoji flat set as pictures and names, and a CLIP-style tokenizer trained on those names.

Used by `90_train_emoji.py`, `91_train_lora.py` and `92_train_control.py`; on its own it writes names and pictures for
`latentrt.benchmarks.studies.own_emoji`:

    python examples/emoji_data.py iconify-json-fluent-emoji-flat-*.tgz icons.npz [--size 64]

The icons come from the npm package
`@iconify-json/fluent-emoji-flat` (MIT, by Microsoft Corporation): `npm pack` brings it as one .tgz file.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

PACKAGE = "@iconify-json/fluent-emoji-flat"
CATEGORIES = ("Animals & Nature", "Food & Drink", "Smileys & Emotion")  # what the U-Net learns to draw
# in pictures of the documentation
SHOWN = ("cat", "crab", "crying-face", "frog", "ghost", "pizza", "red-apple", "strawberry", "sunflower", "tiger-face")
TONES = ("-medium-light", "-medium-dark", "-light", "-medium", "-dark")  # longest first
GENDERS = ("man", "woman", "men", "women")


class DataMissingError(Exception):
    """The icon data is not there; the message says how to get it."""


def icons_from_package(path: Path | None, work: Path) -> dict[str, Any]:
    """Read the iconify collection: {"icons": {name: {"body": svg}}, "width": 32, …, "categories": {title: names}}.

    path: the package's .tgz, or its unpacked icons.json with metadata.json beside it; None looks in
    `work` and, where there is none, runs `npm pack` there. Raises DataMissingError in one line.
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
        if not path.with_name("metadata.json").is_file():
            raise DataMissingError(
                f"got {path} without metadata.json beside it; pass the npm package's .tgz with --data"
            )
        texts = [
            path.read_text(encoding="utf-8"),
            path.with_name("metadata.json").read_text(encoding="utf-8"),
        ]
    else:
        with tarfile.open(path) as archive:
            members = [archive.extractfile(f"package/{name}.json") for name in ("icons", "metadata")]
            texts = [member.read().decode() for member in members if member is not None]
    return {**json.loads(texts[0]), "categories": json.loads(texts[1])["categories"]}


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


def names_in_categories(collection: dict[str, Any], categories: Sequence[str]) -> list[str]:
    """The chosen names that are in one of the package's categories, sorted."""
    inside = {name for title in categories for name in collection["categories"][title]}
    return [name for name in chosen_names(collection["icons"]) if name in inside]


def names_and_held_out(collection: dict[str, Any], every: int) -> tuple[list[str], list[str]]:
    """What the embedded model draws: names to learn from, and every so-many-th name with those shown."""
    drawn = names_in_categories(collection, CATEGORIES)
    held_out = {name for index, name in enumerate(drawn) if index % every == 0 or name in SHOWN}
    return [name for name in drawn if name not in held_out], sorted(held_out)


def prompt_from_name(name: str) -> str:
    """ "crying-face" → "crying face"."""
    return name.replace("-", " ")


def picture_from_icon(icon: dict[str, Any], collection: dict[str, Any], size: int) -> npt.NDArray[np.uint8]:
    """Draw one icon on white: (size, size, 3) uint8 RGB, its aspect kept and the rest left white."""
    return _drawn(icon, collection, size, "RGB")


def cutout_from_icon(icon: dict[str, Any], collection: dict[str, Any], size: int) -> npt.NDArray[np.uint8]:
    """Draw one icon on nothing: (size, size, 4) uint8 RGBA."""
    return _drawn(icon, collection, size, "RGBA")


def _drawn(icon: dict[str, Any], collection: dict[str, Any], size: int, mode: str) -> npt.NDArray[np.uint8]:
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
    background = "white" if mode == "RGB" else None
    png = bytes(
        resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, background=background, skip_system_fonts=True)
    )
    return np.asarray(Image.open(io.BytesIO(png)).convert(mode), dtype=np.uint8)


def pictures_from_collection(collection: dict[str, Any], names: Sequence[str], size: int) -> npt.NDArray[np.uint8]:
    """Draw the named icons: (N, size, size, 3) uint8 RGB on white."""
    return np.stack([picture_from_icon(collection["icons"][name], collection, size) for name in names])


def byte_order() -> list[int]:
    """The 256 bytes in CLIP's (GPT-2's) order: the printable ones, then the others."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    return printable + [b for b in range(256) if b not in printable]


def byte_symbols() -> list[str]:
    """The printable stand-ins for the bytes of byte_order: themselves, then the letters from 256 on."""
    return [chr(b if i < 188 else 256 + i - 188) for i, b in enumerate(byte_order())]


def merges_from_prompts(prompts: Sequence[str], count: int) -> list[tuple[str, str]]:
    """Learn up to `count` merges of a byte-level BPE whose words end in "</w>" (Sennrich et al. 2016, alg. 1).

    The most frequent pair is merged first and ties go to the pair that sorts first: the same prompts give the
    same merges in every process. (The trainer in `tokenizers` breaks ties by hash order.)
    """
    letters = dict(zip(byte_order(), byte_symbols(), strict=True))
    counts = Counter(word for prompt in prompts for word in re.findall(r"[^\W\d_]+|\d|[^\s\w]+", prompt.lower()))
    words = [([letters[b] for b in word.encode()], n) for word, n in sorted(counts.items())]
    for pieces, _ in words:
        pieces[-1] += "</w>"
    merges: list[tuple[str, str]] = []
    while len(merges) < count:
        pairs: Counter[tuple[str, str]] = Counter()
        for pieces, n in words:
            for pair in pairwise(pieces):
                pairs[pair] += n
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for pieces, _ in words:
            at = 0
            while at < len(pieces) - 1:
                if (pieces[at], pieces[at + 1]) == best:
                    pieces[at : at + 2] = ["".join(best)]
                at += 1
    return merges


def save_tokenizer(prompts: Sequence[str], folder: Path, vocab_size: int) -> None:
    """Learn a byte-level BPE of CLIP's kind from the prompts and write it as a CLIPTokenizer folder.

    The vocabulary is laid out as CLIP's: 256 byte symbols, the same with "</w>", one token a merge, the two
    specials. Every byte has both forms, so no text becomes unknown. Writes tokenizer.json, vocab.json,
    merges.txt, tokenizer_config.json and special_tokens_map.json.
    """
    from transformers import CLIPTokenizer

    start, end = "<|startoftext|>", "<|endoftext|>"
    symbols = byte_symbols()
    merges = merges_from_prompts(prompts, vocab_size - 2 * len(symbols) - 2)
    tokens = [*symbols, *(s + "</w>" for s in symbols), *(a + b for a, b in merges), start, end]
    vocab = {token: i for i, token in enumerate(dict.fromkeys(tokens))}

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
    parser = argparse.ArgumentParser(description="Draw the chosen icons into one .npz: names, trained, pictures.")
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
    trained = np.isin(names, names_in_categories(collection, CATEGORIES))
    pictures = pictures_from_collection(collection, names, given.size)
    np.savez_compressed(given.out, names=np.array(names), trained=trained, pictures=pictures)
    print(
        f"wrote {given.out}: {len(names)} icons, {trained.sum()} of them to be drawn, {given.size}×{given.size} pixels"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
