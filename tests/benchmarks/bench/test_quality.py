"""The figures of closeness, on pictures whose answer is known."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmark_sample import contender, result

from latentrt.benchmarks.bench.quality import SHOWN, QualityError, clip_score, flip, psnr_and_ssim, quality_of
from latentrt.benchmarks.peers.output import save
from latentrt.benchmarks.report.markdown import markdown_table
from latentrt.benchmarks.report.readme import PAGES, with_tables
from latentrt.benchmarks.report.schema import read_result
from latentrt.benchmarks.studies.own_emoji import read_icons
from latentrt.engines.documents import write_document
from latentrt.engines.errors import RequestError

HOUSE = Path(__file__).resolve().parents[3]
RESULTS = sorted((HOUSE / "benchmarks" / "results").glob("*.json"))


def test_psnr_and_ssim_of_known_differences() -> None:
    """A tenth everywhere is 20 dB; equal pictures have none and are alike."""
    picture = np.random.default_rng(0).random((16, 16, 3)) * 0.5
    psnr, _ = psnr_and_ssim(picture + 0.1, picture)
    assert psnr == pytest.approx(20.0)
    assert psnr_and_ssim(picture, picture) == (None, pytest.approx(1.0))
    assert psnr_and_ssim(picture[::-1].copy(), picture)[1] < 0.5


def test_the_worst_picture_is_found_and_shown(tmp_path: Path) -> None:
    """Behind all those that are shown anyway; latents are compared where there are some."""
    rng = np.random.default_rng(1)
    count, ours, theirs = SHOWN + 4, [], []
    for place in range(count):
        wanted = rng.random((1, 16, 16, 3)).astype(np.float32)
        latents = rng.standard_normal((1, 4, 2, 2)).astype(np.float32)
        error = 0.3 if place == count - 1 else 0.01
        theirs.append(tmp_path / f"t{place}.npz")
        ours.append(tmp_path / f"o{place}.npz")
        np.savez(theirs[-1], pixels=wanted, latents=latents)
        np.savez(ours[-1], pixels=np.clip(wanted + error, 0, 1), latents=1.5 * latents)
    found = quality_of(ours, theirs, [str(n) for n in range(count)], 5, None)
    assert found.worst.prompt == str(count - 1)
    assert found.worst.seed == 5 + count - 1
    assert found.worst.picture is not None
    assert [row.picture is not None for row in found.pictures] == [True] * SHOWN + [False] * 3 + [True]
    assert found.pictures[0].latent_relative_error == pytest.approx(0.5)
    assert found.worst_flip == found.worst.flip
    assert found.worst_flip is not None
    assert found.worst_flip > 5 * (found.pictures[0].flip or 1.0)


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random CLIP with both towers."""
    import torch
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    from latentrt.models import EMOJI

    folder = tmp_path_factory.mktemp("clip")
    tokenizer = CLIPTokenizer.from_pretrained(EMOJI / "tokenizer")
    tower = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config={**tower, "vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id},
        vision_config={**tower, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_clip_score_is_transformers_own_cosine(clip_folder: Path) -> None:
    """100 times; a picture of the tower's size passes unscaled."""
    import torch
    from transformers import AutoTokenizer, CLIPModel

    pixels = np.rint(np.random.default_rng(2).random((32, 32, 3)) * 255) / 255
    model, tokenizer = CLIPModel.from_pretrained(clip_folder).eval(), AutoTokenizer.from_pretrained(clip_folder)
    normed = (pixels - [0.48145466, 0.4578275, 0.40821073]) / [0.26862954, 0.26130258, 0.27577711]
    with torch.no_grad():
        out = model(
            **tokenizer(["a cat"], return_tensors="pt"),
            pixel_values=torch.tensor(normed.transpose(2, 0, 1)[None], dtype=torch.float32),
        )
    wanted = 100 * torch.nn.functional.cosine_similarity(out.image_embeds, out.text_embeds).item()
    assert clip_score(clip_folder)(pixels, "a cat") == pytest.approx(wanted, abs=1e-3)


@pytest.mark.parametrize("page", PAGES)
def test_pages_show_the_committed_results(page: str) -> None:
    """Writing them anew would change nothing."""
    text = (HOUSE / page).read_text("utf-8")
    assert with_tables(text) == text


@pytest.mark.parametrize("name", sorted({"emoji", "sd1", *(path.stem for path in RESULTS)}))
def test_each_result_has_its_place(name: str) -> None:
    """Filled where there is a result, else waiting."""
    text = (HOUSE / "docs" / "benchmarks.md").read_text("utf-8")
    filled = f"| {name}" if any(path.stem == name for path in RESULTS) else ""
    assert f"<!-- figures: {name} -->\n{filled}" in text


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_committed_results_are_valid_and_whole(path: Path) -> None:
    """They read, tell of ours and the reference, and lie beside their page."""
    found = read_result(path)
    assert any(row.ours for row in found.measured)
    assert found.reference in {row.name for row in found.measured}
    assert path.with_suffix(".html").is_file()
    assert re.findall(r"""(?<![^\s'"=:])/[\w.-]+/[\w.-]+""", path.read_text("utf-8")) == []  # absolute paths


def test_tables_are_filled_from_the_result(tmp_path: Path) -> None:
    """Whatever stood there goes; the rest stays."""
    write_document(tmp_path / "one.json", result(contender("latentrt fp32", "latentrt_bundle", 0.25)))
    text = "before\n<!-- figures: one -->\nold\n<!-- end of figures -->\nafter\n"
    filled = with_tables(text, tmp_path)
    assert filled.startswith("before\n<!-- figures: one -->\n| emoji")
    assert filled.endswith("<!-- end of figures -->\nafter\n")
    assert markdown_table(read_result(tmp_path / "one.json")) in filled
    assert with_tables(filled, tmp_path) == filled


def test_a_text_without_a_place_is_refused(tmp_path: Path) -> None:
    """As is a damaged result; one that is not there leaves its place empty."""
    with pytest.raises(RequestError, match="no place"):
        with_tables("nothing", tmp_path)
    empty = "<!-- figures: one -->\n<!-- end of figures -->"
    assert with_tables(empty.replace("-->\n", "-->\nstale\n"), tmp_path) == empty
    (tmp_path / "one.json").write_text("{")
    with pytest.raises(RequestError, match="cut short"):
        with_tables(empty, tmp_path)


def drawn(path: Path, side: int = 16, value: float = 0.5) -> Path:
    np.savez(path, pixels=np.full((1, side, side, 3), value, np.float32))
    return path


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: drawn(path, value=np.nan), "its picture of 'cat' has NaN or infinity"),
        (lambda path: drawn(path, value=np.inf), "its picture of 'cat' has NaN or infinity"),
        (lambda path: drawn(path, side=32), "its picture of 'cat' has 32×32 pixels, the reference's 16×16"),
        (lambda path: drawn(path, side=8), "expected .* of 11 pixels or more"),
        (lambda path: path.write_bytes(drawn(path).read_bytes()[:200]), "its picture of 'cat' cannot be read"),
        (lambda path: path.write_bytes(b""), "its picture of 'cat' cannot be read"),
        (lambda path: np.savez(path, other=np.zeros(3)), "its picture of 'cat' cannot be read"),
    ],
)
def test_pictures_that_cannot_be_compared_are_a_reason(
    damage: Callable[[Path], object], said: str, tmp_path: Path
) -> None:
    """Not a crash behind hours of measuring."""
    damage(tmp_path / "ours.npz")
    reference = drawn(tmp_path / "theirs.npz")
    with pytest.raises(QualityError, match=said):
        quality_of([tmp_path / "ours.npz"], [reference], ["cat"], 1, None)


def test_a_damaged_reference_is_said_to_be_the_reference(tmp_path: Path) -> None:
    """Every row would fail alike."""
    ours, theirs = drawn(tmp_path / "ours.npz"), drawn(tmp_path / "theirs.npz", value=np.nan)
    with pytest.raises(QualityError, match="the reference's picture of 'cat' has NaN"):
        quality_of([ours], [theirs], ["cat"], 1, None)


def test_ssim_is_that_of_wang_and_others() -> None:
    """Of two flat pictures what the paper's luminance term says, (2ab + C) / (a² + b² + C) with C = 0.01²."""
    one, other = np.full((16, 16, 3), 0.3), np.full((16, 16, 3), 0.6)
    constant = 0.01**2
    wanted = (2 * 0.3 * 0.6 + constant) / (0.3**2 + 0.6**2 + constant)
    assert psnr_and_ssim(one, other)[1] == pytest.approx(wanted, rel=1e-9)


def test_flip_is_its_authors_own() -> None:
    """Nothing for equal pictures, all there is from green to blue, and what lies between grows with the difference."""
    grey = np.full((16, 16, 3), 0.5)
    green, blue = (np.zeros((16, 16, 3)) + color for color in ([0, 1, 0], [0, 0, 1]))
    assert flip(grey, grey) == 0.0
    assert flip(green, blue) == pytest.approx(1.0, abs=1e-3)
    assert 0.0 < flip(grey + 0.01, grey) < flip(grey + 0.1, grey) < 0.5


def test_output_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    """What cannot be written leaves neither a file nor a rest of one."""
    with pytest.raises(ValueError, match="could not convert"):
        save(tmp_path / "one.npz", [["no number"]], None)
    assert list(tmp_path.iterdir()) == []
    save(tmp_path / "one.npz", np.zeros((1, 2, 2, 3)), np.ones((1, 4, 1, 1)))
    save(tmp_path / "one.png", np.zeros((1, 2, 2, 3)), None)
    assert {path.name for path in tmp_path.iterdir()} == {"one.npz", "one.png"}


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"names": np.array(["a"])}, "has no pictures"),
        ({"names": np.array(["a"]), "pictures": np.zeros((1, 4, 4), np.uint8), "trained": [True]}, "expected .M, H, W"),
        ({"names": np.array(["a"]), "pictures": np.zeros((2, 4, 4, 3), np.uint8), "trained": [True]}, "expected .M, H"),
        ({"names": np.array(["a"]), "pictures": np.zeros((1, 4, 4, 3)), "trained": [True]}, "float64 of names"),
        ({"names": np.array(["a"]), "pictures": np.zeros((1, 4, 4, 3), np.uint8), "trained": [False]}, "of no emoji"),
    ],
)
def test_icons_that_are_none_are_refused(arrays: dict[str, Any], said: str, tmp_path: Path) -> None:
    """In one sentence that says what there is."""
    np.savez(tmp_path / "icons.npz", **arrays)
    with pytest.raises(RequestError, match=said):
        read_icons(tmp_path / "icons.npz")


@pytest.mark.parametrize("kept", [0, 10, 300, 700])
def test_cut_icons_are_refused(kept: int, tmp_path: Path) -> None:
    """Wherever the file ends."""
    path = tmp_path / "icons.npz"
    pictures = np.random.default_rng(3).integers(0, 255, (1, 16, 16, 3), np.uint8)
    np.savez(path, names=np.array(["a"]), pictures=pictures, trained=np.array([True]))
    assert read_icons(path).trained == (0,)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(RequestError, match="cannot read icons"):
        read_icons(path)
