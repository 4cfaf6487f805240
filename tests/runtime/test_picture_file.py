"""Picture files of every format carry their settings where A1111 looks for them, spelled as it spells them."""

import re
import struct
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import latentrt
from latentrt.engines.bundle.records.component import FileRecord
from latentrt.engines.bundle.records.schedule_config import EdmLevels, ScheduleConfig, SigmaSpacing
from latentrt.engines.errors import RequestError
from latentrt.runtime.metadata.a1111_names import sampler_name, schedule_type
from latentrt.runtime.metadata.added import ImagePromptMetadata, LoraMetadata
from latentrt.runtime.metadata.model_name import model_name_from_manifest
from latentrt.runtime.metadata.picture_metadata import PictureMetadata
from latentrt.runtime.pictures.picture_file import read_parameters, settings_from_parameters, write_picture
from latentrt.runtime.sampling.sampler_table import SAMPLERS
from latentrt.runtime.sampling.samplers import Sampler

TEXT = 'café 港 🚢, "quoted"\nNegative prompt: (low)\nSteps: 3, Sampler: Euler a, CFG scale: 7, TI hashes: "a: 01"'
PICTURE = Image.linear_gradient("L").resize((48, 32)).convert("RGB")


def a1111_settings(text: str) -> dict[str, str]:
    """Reads ``parameters`` as AUTOMATIC1111's web UI does (infotext_utils.parse_generation_parameters)."""
    pair = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
    *lines, last = text.strip().split("\n")
    found = {"Prompt": "", "Negative prompt": ""}
    target = "Prompt"
    for line in lines:
        line = line.strip()
        if line.startswith("Negative prompt:"):
            target, line = "Negative prompt", line.removeprefix("Negative prompt:").strip()
        found[target] += ("\n" if found[target] else "") + line
    assert len(pair.findall(last)) >= 3
    settings = {key: value.strip('"').replace('\\"', '"') for key, value in pair.findall(last)}
    return {**found, **settings}


def user_comment(exif: bytes) -> bytes:
    """The user comment of EXIF data, found as piexif finds it: by its tags, types and offsets alone."""
    tiff = exif[6:] if exif.startswith(b"Exif\0\0") else exif
    order = {b"II": "<", b"MM": ">"}[tiff[:2]]
    assert struct.unpack(order + "H", tiff[2:4]) == (42,)

    def entry(directory: int, wanted: int) -> tuple[int, int, int]:
        (count,) = struct.unpack(order + "H", tiff[directory : directory + 2])
        for start in range(directory + 2, directory + 2 + 12 * count, 12):
            tag, kind, length, value = struct.unpack(order + "HHII", tiff[start : start + 12])
            if tag == wanted:
                return kind, length, value
        raise AssertionError(f"no tag {wanted:#x}")

    (first,) = struct.unpack(order + "I", tiff[4:8])
    _, _, directory = entry(first, 0x8769)
    kind, length, offset = entry(directory, 0x9286)
    assert kind == 7  # UNDEFINED; piexif gives a tuple of numbers for BYTE
    return tiff[offset : offset + length]


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".JPG", ".webp"])
def test_settings_lie_where_a1111_reads_them(tmp_path: Path, suffix: str) -> None:
    """UserComment, in Unicode as piexif writes it: the high byte first."""
    write_picture(tmp_path / f"cat{suffix}", PICTURE, TEXT)
    with Image.open(tmp_path / f"cat{suffix}") as image:
        assert image.format == {".webp": "WEBP"}.get(suffix, "JPEG")
        comment = user_comment(image.info["exif"])
        assert np.abs(np.asarray(image, np.float64) - np.asarray(PICTURE)).mean() < 2
    assert comment[:8] == b"UNICODE\0"
    assert comment[8:].decode("utf-16-be") == TEXT
    assert read_parameters(tmp_path / f"cat{suffix}") == TEXT


def test_settings_in_a_png_are_a_text_chunk(tmp_path: Path) -> None:
    """The pixels are kept to the bit."""
    write_picture(tmp_path / "cat.png", PICTURE, TEXT)
    with Image.open(tmp_path / "cat.png") as image:
        assert image.text["parameters"] == TEXT  # type: ignore[attr-defined]
        np.testing.assert_array_equal(np.asarray(image), np.asarray(PICTURE))
    assert read_parameters(tmp_path / "cat.png") == TEXT


COMMENTS: dict[str, tuple[bytes, str | None]] = {
    "low byte first": (b"UNICODE\0" + TEXT.encode("utf-16-le"), TEXT),
    "no Latin letter": (b"UNICODE\0" + "港港".encode("utf-16-be"), "港港"),
    "ASCII": (b"ASCII\0\0\0" + b"a cat", "a cat"),
    "UTF-8 called ASCII": (b"ASCII\0\0\0" + TEXT.encode(), TEXT),
    "no name of an encoding": (bytes(8) + b"a cat", "a cat"),
    "nothing but UTF-8": (TEXT.encode(), TEXT),
    "JIS": (b"JIS\0\0\0\0\0" + "港".encode("shift_jis"), "港"),
    "empty": (b"UNICODE\0", None),
    "an odd number of bytes": (b"UNICODE\0" + "cat".encode("utf-16-be") + b"\0", "cat\ufffd"),
}


@pytest.mark.parametrize("case", COMMENTS)
def test_user_comments_of_other_tools(tmp_path: Path, case: str) -> None:
    """Whatever encoding they name, or none."""
    comment, expected = COMMENTS[case]
    exif = Image.Exif()
    exif[0x8769] = {0x9286: comment}
    PICTURE.save(tmp_path / "cat.jpg", exif=exif)
    assert read_parameters(tmp_path / "cat.jpg") == expected


def test_pictures_without_settings(tmp_path: Path) -> None:
    """None; what is no picture is refused."""
    for name in ("cat.png", "cat.jpg", "cat.webp", "cat.bmp"):
        PICTURE.save(tmp_path / name)
        assert read_parameters(tmp_path / name) is None
    PICTURE.save(tmp_path / "damaged.jpg", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert read_parameters(tmp_path / "damaged.jpg") is None
    (tmp_path / "text.png").write_text("no picture")
    for name, reason in (("text.png", "expected a picture file"), ("none.png", "No such file")):
        with pytest.raises(RequestError, match=reason):
            read_parameters(tmp_path / name)


def test_settings_that_a_jpeg_cannot_hold(tmp_path: Path) -> None:
    """The picture is kept, and it is said that they are not."""
    with pytest.warns(UserWarning, match="too long for the JPEG 'cat.jpg' and were left out"):
        write_picture(tmp_path / "cat.jpg", PICTURE, "x" * 40_000)
    assert read_parameters(tmp_path / "cat.jpg") is None
    write_picture(tmp_path / "cat.webp", PICTURE, "x" * 40_000)
    assert read_parameters(tmp_path / "cat.webp") == "x" * 40_000


# What A1111 1.10 has (sd_samplers_kdiffusion.py, sd_samplers_timesteps.py, sd_samplers_lcm.py, sd_schedulers.py)
A1111_SAMPLERS = (
    "DPM++ 2M", "DPM++ SDE", "DPM++ 2M SDE", "DPM++ 2M SDE Heun", "DPM++ 2S a", "DPM++ 3M SDE", "Euler a", "Euler",
    "LMS", "Heun", "DPM2", "DPM2 a", "DPM fast", "DPM adaptive", "Restart", "DDIM", "DDIM CFG++", "PLMS", "UniPC",
    "LCM",
)  # fmt: skip
A1111_SCHEDULES = (
    "Automatic", "Uniform", "Karras", "Exponential", "Polyexponential", "SGM Uniform", "KL Optimal", "Align Your Steps",
    "Simple", "Normal", "DDIM", "Beta",
)  # fmt: skip
# Our samplers that it has, and those that it has not
NAMES = {
    "ddim": "DDIM", "pndm": "PLMS", "euler": "Euler", "euler_k": "Euler", "euler_a": "Euler a", "heun": "Heun",
    "heun_k": "Heun", "kdpm_2": "DPM2", "kdpm_2_k": "DPM2", "kdpm_2_a": "DPM2 a", "kdpm_2_a_k": "DPM2 a", "lms": "LMS",
    "lms_k": "LMS", "dpmpp_2m": "DPM++ 2M", "dpmpp_2m_k": "DPM++ 2M", "dpmpp_2m_sde": "DPM++ 2M SDE",
    "dpmpp_2m_sde_k": "DPM++ 2M SDE", "dpmpp_sde": "DPM++ SDE", "dpmpp_sde_k": "DPM++ SDE", "unipc": "UniPC",
    "unipc_k": "UniPC", "lcm": "LCM", "edm_euler": "Euler",
}  # fmt: skip
OURS = {"ddpm", "dpmpp_2s", "dpmpp_2s_k", "dpmpp_3m", "dpmpp_3m_k", "deis", "deis_k", "tcd", "er_sde"}


def test_samplers_have_the_names_that_a1111_knows() -> None:
    """Every sampler is one of its or is known not to be; a curve of σ is its schedule type."""
    assert {*NAMES, *OURS} == {*SAMPLERS}
    for name in SAMPLERS:
        sampler = Sampler(name=name)
        named, schedule = sampler_name(sampler), schedule_type(sampler, ScheduleConfig())
        assert schedule in A1111_SCHEDULES
        assert (schedule == "Karras") == (name.endswith("_k") or name == "edm_euler")
        assert "Karras" not in named
        if name in NAMES:
            assert named == NAMES[name]
            assert named in A1111_SAMPLERS
        else:
            assert named not in A1111_SAMPLERS


@pytest.mark.parametrize("own", [SigmaSpacing.KARRAS, SigmaSpacing.EXPONENTIAL])
def test_models_with_edm_levels_visit_their_own_curve(own: SigmaSpacing) -> None:
    """Whatever their scheduler says of timesteps, which they have not; a curve that is asked for counts more."""
    spacing: Any = {"timestep_spacing": "leading", "steps_offset": 1}
    config = ScheduleConfig(**spacing, edm=EdmLevels(sigma_spacing=own))
    for name in ("euler", "ddim"):
        assert schedule_type(Sampler(name=name), config) == own.capitalize()
    assert schedule_type(Sampler(name="euler_k"), config) == "Karras"
    assert schedule_type(Sampler(name="euler", sigmas=[10.0, 1.0, 0.0]), config) is None


@pytest.mark.parametrize(
    ("sampler", "name", "schedule"),
    [
        (Sampler(name="dpmpp_2m", algorithm_type="sde-dpmsolver++"), "DPM++ 2M SDE", "SGM Uniform"),
        (Sampler(name="dpmpp_2m_sde_k", solver_type="heun"), "DPM++ 2M SDE Heun", "Karras"),
        (Sampler(name="dpmpp_3m", algorithm_type="sde-dpmsolver++"), "DPM++ 3M SDE", "SGM Uniform"),
        (Sampler(name="dpmpp_2m", algorithm_type="dpmsolver"), "DPM++ 2M (dpmsolver)", "SGM Uniform"),
        (Sampler(name="euler", timestep_spacing="linspace"), "Euler", "Uniform"),
        (Sampler(name="euler", timestep_spacing="trailing"), "Euler", "SGM Uniform"),
        (Sampler(name="euler", timestep_spacing="leading", steps_offset=1), "Euler", "DDIM"),
        (Sampler(name="euler", timestep_spacing="leading", steps_offset=0), "Euler", None),
        (Sampler(name="dpmpp_2m", timestep_spacing="leading", steps_offset=1), "DPM++ 2M", None),
        (Sampler(name="euler", sigma_spacing="exponential"), "Euler", "Exponential"),
        (Sampler(name="euler", sigma_spacing="beta"), "Euler", "Beta"),
        (Sampler(name="dpmpp_2m", sigma_spacing="lu"), "DPM++ 2M", None),
        (Sampler(name="euler", interpolation_type="log_linear"), "Euler", None),
        (Sampler(name="dpmpp_2m", timesteps="ays"), "DPM++ 2M", "Align Your Steps"),
        (Sampler(name="euler", sigmas=[10.0, 1.0, 0.0]), "Euler", None),
        (Sampler(name="ddim", timestep_spacing="trailing"), "DDIM", "Automatic"),
    ],
)
def test_options_that_make_another_sampler_or_schedule(sampler: Sampler, name: str, schedule: str | None) -> None:
    """They have names of their own in A1111; None where it has none."""
    assert (sampler_name(sampler), schedule_type(sampler, ScheduleConfig())) == (name, schedule)
    assert schedule in (*A1111_SCHEDULES, None)


@pytest.mark.parametrize("steps", [10, 20, 25])
@pytest.mark.parametrize(
    ("sampler", "offset", "step"),
    [
        (Sampler(name="euler", timestep_spacing="linspace"), 0, 0),
        (Sampler(name="dpmpp_2m", timestep_spacing="linspace"), 0, 1),
        (Sampler(name="euler", timestep_spacing="leading", steps_offset=1), 1, 0),
    ],
)
def test_schedule_types_visit_the_same_timesteps(sampler: Sampler, offset: int, step: int, steps: int) -> None:
    """As sd_schedulers.py computes them: Uniform, SGM Uniform, DDIM."""
    found = sampler.schedule(ScheduleConfig(), steps).timesteps
    if offset:
        expected = np.arange(1, 1000, 1000 // steps)[::-1].astype(np.float64)
    else:
        expected = np.linspace(999.0, 0.0, steps + step)[:steps]
    np.testing.assert_allclose(found, expected, atol=0.5)  # the DPM-Solver family's are rounded


METADATA = PictureMetadata(
    prompt="a cat",
    negative_prompt="",
    num_inference_steps=20,
    guidance_scale=7.5,
    sampler="dpmpp_2m_k",
    sampler_label="DPM++ 2M",
    schedule_type="Karras",
    seed=7,
    batch_index=0,
    width=48,
    height=32,
    model="emoji",
)


def test_weights_of_blocks_in_numpys_numbers() -> None:
    """Of LoRAs and image prompts; a name's commas and colons would look like further settings."""
    blocks = {"down": np.float32(0.5), "up": {"block_0": np.array([0.0, 1.0])}, "mid": 1}
    told = replace(
        METADATA,
        loras=(LoraMetadata(name="style", short_hash=None, unet=1.0, text=1.0, weights=blocks),),
        image_prompts=(ImagePromptMetadata(adapter="a, b: c", images=1, scale=1.0, blocks=blocks),),
    )
    settings = a1111_settings(told.parameters())
    numbers = '{"down": 0.5, "up": {"block_0": [0.0, 1.0]}, "mid": 1}'
    assert numbers in settings["Lora weights"]
    assert settings["Image prompt 0"].startswith(f"Model: a b c, Weight: 1, Blocks: {numbers}")


def test_the_line_of_settings_has_a1111s_names_and_order() -> None:
    """To the letter, as processing.create_infotext writes it."""
    metadata = replace(
        METADATA,
        strength=0.5,
        clip_skip=1,
        model_hash="0123456789",
        vae="kl.pt",
        vae_hash="9876543210",
        embeddings={"<moe:bius>": "0123456789ab", "b, c": "ba9876543210"},
    )
    line = metadata.parameters().splitlines()[-1]
    assert line.partition(", Version: ")[0] == (
        "Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7.5, Seed: 7, Size: 48x32, "
        "Model hash: 0123456789, Model: emoji, VAE hash: 9876543210, VAE: kl.pt, Denoising strength: 0.5, "
        'Clip skip: 2, RNG: CPU, TI hashes: "<moebius>: 0123456789ab, b c: ba9876543210"'
    )
    assert "RNG" not in replace(METADATA, seeded=False).parameters()


@pytest.mark.parametrize(
    ("prompt", "negative", "syntax", "said"),
    [
        ("a (red) cat", "", "plain", True),
        ("a cat", "[low]", "plain", True),
        ("a cat", None, "plain", False),
        ("a (red) cat", "", "a1111", False),
        ("a (red)1.2 cat", "", "compel", False),
    ],
)
def test_brackets_of_plain_prompts_are_no_weights(prompt: str, negative: str | None, syntax: str, said: bool) -> None:
    """A1111's setting for that, which it reads back."""
    text = replace(METADATA, prompt=prompt, negative_prompt=negative, prompt_syntax=syntax).parameters()
    assert ("Emphasis: None" in text) == said


def test_options_under_a1111s_names() -> None:
    """Besides our own, which hold them all."""
    settings = a1111_settings(replace(METADATA, sampler="ddim", sampler_options={"eta": 0.5}).parameters())
    assert (settings["Eta DDIM"], settings["Sampler options"]) == ("0.5", "eta=0.5")
    settings = a1111_settings(replace(METADATA, sampler_options={"s_churn": 0.5, "s_noise": 1.0}).parameters())
    assert (settings["Sigma churn"], settings["Sigma noise"]) == ("0.5", "1")


@pytest.mark.parametrize("model", ["emoji", 'a: "model", odd', "two\nlines"])
@pytest.mark.parametrize("prompt", ["a cat", "two\nlines", 'Steps: 3, "quoted", a:b, 100%', ""])
def test_our_reading_is_a1111s(prompt: str, model: str) -> None:
    """Whatever is in the prompt and in the names."""
    text = replace(METADATA, prompt=prompt, negative_prompt="blurry,\nlow", model=model).parameters()
    found = settings_from_parameters(text)
    assert found == {**a1111_settings(text), "Model": model}
    assert (found["Prompt"], found["Negative prompt"], found["Seed"]) == (prompt, "blurry,\nlow", "7")
    assert settings_from_parameters("nothing but a prompt") == {"Prompt": "nothing but a prompt", "Negative prompt": ""}


WEIGHTS = {"emoji.safetensors": "a" * 64}
FOLDER = {"unet/diffusion_pytorch_model.safetensors": "b" * 64}
REPLACED = {"replaced/vae/kl.pt": "c" * 64}


@pytest.mark.parametrize(
    ("files", "short_hash", "vae"),
    [
        (WEIGHTS, "a" * 10, None),
        ({**WEIGHTS, "emoji.json": "d" * 64}, "a" * 10, None),
        ({**WEIGHTS, **REPLACED}, "a" * 10, ("kl.pt", "c" * 10)),
        ({**WEIGHTS, "base/vae/diffusion_pytorch_model.safetensors": "d" * 64}, None, None),
        (FOLDER, None, None),
        ({**FOLDER, **REPLACED}, None, ("kl.pt", "c" * 10)),
        ({}, None, None),
    ],
)
def test_a_model_hash_names_one_file(
    tiny_pipe: latentrt.Pipeline, files: dict[str, str], short_hash: str | None, vae: tuple[str, str] | None
) -> None:
    """A1111's: ten digits of its SHA-256. A folder has none."""
    records = {name: FileRecord(size=1, sha256=digest) for name, digest in files.items()}
    source = tiny_pipe.manifest.source.model_copy(update={"files": records})
    found = model_name_from_manifest(tiny_pipe.manifest.model_copy(update={"source": source}))
    assert found.short_hash == short_hash
    assert (found.vae, found.vae_hash) == (vae or (None, None))


def test_embeddings_are_named_in_the_settings(tiny_bundle: Path, tmp_path: Path) -> None:
    """Those that a picture's prompts name, positive or negative, with twelve digits of the file's SHA-256."""
    for name in ("zorp", "blurgh", "unused"):
        save_file({"emb_params": torch.ones(1, 64)}, tmp_path / f"{name}.safetensors", metadata={"name": name})
    short = {
        name: sha256((tmp_path / f"{name}.safetensors").read_bytes()).hexdigest()[:12] for name in ("zorp", "blurgh")
    }
    with latentrt.open(tiny_bundle, threads=1) as pipe:
        pipe.load_textual_inversion([tmp_path / f"{name}.safetensors" for name in ("zorp", "blurgh", "unused")])
        drawn = pipe(
            ["a (zorp:1.2)", "a cat"],
            negative_prompt=["", "<blurgh>"],
            prompt_syntax="a1111",
            num_inference_steps=1,
            seed=[1, 2],
        )
    assert [metadata.embeddings for metadata in drawn.metadata] == [
        {"zorp": short["zorp"]},
        {"blurgh": short["blurgh"]},
    ]
    drawn.save(tmp_path / "cat.webp")
    settings = a1111_settings(str(read_parameters(tmp_path / "cat-0.webp")))
    assert settings["TI hashes"] == f"zorp: {short['zorp']}"
    assert settings["Sampler"] in A1111_SAMPLERS
    assert settings["Schedule type"] in A1111_SCHEDULES


@pytest.mark.parametrize("name", ["cat", "cat.gif", "cat.png.txt", ".png"])
def test_other_suffixes_are_refused(name: str, tmp_path: Path, draw_once: Callable[..., Any]) -> None:
    """Before anything is written."""
    with pytest.raises(RequestError, match=r"ends in \.png, \.jpg, \.jpeg or \.webp; add \.png"):
        draw_once().save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def draw_once(tiny_pipe: latentrt.Pipeline) -> Callable[..., latentrt.Result]:
    """One picture."""
    result = tiny_pipe("a cat", num_inference_steps=1, seed=1)
    return lambda: result
