"""LoRAs fused into the weights of a bundle: of a model before its export, and of a bundle without torch."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adapter_files import lora_of, save, save_peft
from shared import filled_once, write_sealed

import latentrt
from latentrt.arguments.loras import loras_from_arguments
from latentrt.building.compiling import engines_to_make
from latentrt.building.conversions import fusing
from latentrt.building.loras import changes_from_loras, lora_records
from latentrt.building.plan import BundlePlan, plan_from_request
from latentrt.building.request import BuildRequest
from latentrt.engines.bundle.bundle import Bundle, open_bundle
from latentrt.engines.bundle.checks.gate import run_any_batch
from latentrt.engines.bundle.checks.parity import Reference, parity_of, psnr
from latentrt.engines.bundle.records.manifests.manifest import LoraRecord
from latentrt.engines.bundle.records.seamless import Seamless
from latentrt.engines.files import locked, sha256_of_file
from latentrt.engines.precision import Backend, Precision
from latentrt.engines.progress import StageTimer
from latentrt.engines.shapes import Shapes
from latentrt.engines.spec import Array
from latentrt.engines.store.components import OpenComponents
from latentrt.export.sources.partial_model import Choices
from latentrt.export.sources.source import checkpoint_from_headers
from latentrt.quantization.settings import Effort
from latentrt.runtime.adapters.formats.model_weights import model_weights_of

TABLE = "text_model.embeddings.token_embedding.weight"
_PREFIXES = {"unet": "lora_unet_", "text_encoder": "lora_te_"}
_XL_PREFIXES = {"unet": "lora_unet_", "text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"}


def kohya(bundle: Bundle, prefixes: Mapping[str, str], scale: float = 1.0) -> dict[str, Array]:
    """A LoRA of rank 2 and alpha 1 for every matrix and convolution of a bundle, but for embeddings."""
    tensors: dict[str, Array] = {}
    for component, prefix in prefixes.items():
        for name, row in bundle.weights(component).named.weights.items():
            if not name.endswith(".weight") or len(row.shape) < 2 or "embedding." in name:
                continue
            tensors |= lora_of(prefix + name.removesuffix(".weight").replace(".", "_"), row.shape)
    return {name: scale * tensor if "lora_up" in name else tensor for name, tensor in tensors.items()}


@pytest.fixture(scope="module")
def style(tiny_bundle: Path, shared: Path) -> Path:
    """A LoRA for the tiny model's U-Net and text encoder."""
    return (
        filled_once(
            shared / "fused-loras",
            lambda folder: save(folder / "style.safetensors", kohya(open_bundle(tiny_bundle), _PREFIXES, 0.01)),
        )
        / "style.safetensors"
    )


@pytest.fixture(scope="module")
def fused(tiny_bundle: Path, style: Path, shared: Path) -> Path:
    """The tiny bundle with the LoRA in it. Do not write to it."""

    def fuse(folder: Path) -> None:
        source = shutil.copytree(tiny_bundle, folder / "tiny.bundle")
        latentrt.build(source, folder / "fused.bundle", loras=[f"{style}:0.8:0.5"])

    return filled_once(shared / "fused", fuse) / "fused.bundle"


def changed_by(bundle: Bundle, style: Path, component: str, weight: float) -> dict[str, Array]:
    """What every weight of a component becomes that the LoRA is for, by the formula in float64."""
    from safetensors.numpy import load_file

    tensors, weights, found = load_file(style), bundle.weights(component), {}
    for name, row in weights.named.weights.items():
        stem = _PREFIXES[component] + name.removesuffix(".weight").replace(".", "_")
        if f"{stem}.lora_up.weight" not in tensors:
            continue
        up, down = (tensors[f"{stem}.lora_{side}.weight"].astype(np.float64) for side in ("up", "down"))
        difference = up.reshape(len(up), -1) @ down.reshape(len(down), -1) / 2.0
        found[name] = weights.array(name) + weight * difference.reshape(row.shape)
    return found


def drawn(bundle: Path, lora: Path | None = None, **options: Any) -> Array:
    """A picture; with a LoRA as an argument of the call."""
    with latentrt.open(bundle, threads=1) as pipe:
        if lora is not None:
            pipe.load_lora(lora)
        return np.asarray(pipe("a cat", num_inference_steps=3, seed=1, output_type="np", **options).images[0])


def test_of_a_bundle_without_torch(tiny_copy: Path, style: Path, tmp_path: Path, command: Callable[..., Any]) -> None:
    """One command, in a process that has neither torch nor onnx; then what the result says and draws."""
    made = tmp_path / "fused.bundle"
    code = f"""
import sys
for name in ("torch", "diffusers", "transformers", "onnx", "onnx_ir", "onnxscript"):
    sys.modules[name] = None
from latentrt.cli.app import main
main(["build", {str(tiny_copy)!r}, "--lora", {f"{style}:0.8:0.5"!r}, "-o", {str(made)!r}, "--json"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "loras: style 0.8/0.5 (style.safetensors, fused into the weights)" in done.stderr
    assert json.loads(done.stdout)["decisions"]["loras"]["value"] == "style 0.8/0.5"
    described = json.loads(command("inspect", made, "--json").stdout)
    assert described["loras"] == [
        {
            "name": "style",
            "file": "style.safetensors",
            "sha256": sha256_of_file(style),
            "weight": 0.8,
            "text_weight": 0.5,
        }
    ]
    references = {name: row["reference"] for name, row in described["components"].items()}
    assert references == {"text_encoder": "onnx", "unet": "onnx", "vae_encoder": "torch", "vae_decoder": "torch"}
    assert all(row["parity"]["psnr"] > 100.0 for row in described["components"].values())
    shown = command("inspect", made).stdout
    assert "loras      style 0.8/0.5 (style.safetensors, fused into the weights)" in shown
    assert "figures are against its own ONNX, not optimised, as LoRAs were fused without torch; those of vae" in shown
    verified = command("verify", made)
    assert verified.status == 0, verified.stderr
    assert "text_encoder, unet with its own ONNX, not optimised" in verified.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fused.bundle", "tiny.bundle"]
    open_bundle(tiny_copy).check_all()
    with latentrt.open(made, threads=1) as pipe:
        drawn_with = pipe("a cat", num_inference_steps=1, seed=1)
    assert 'Model: "' not in drawn_with.metadata[0].parameters()
    assert drawn_with.metadata[0].model.endswith(" + style 0.8/0.5")
    assert drawn_with.metadata[0].model_hash is None


@pytest.mark.parametrize(("component", "weight"), [("unet", 0.8), ("text_encoder", 0.5)])
def test_the_weights_are_the_formulas(
    fused: Path, tiny_bundle: Path, style: Path, component: str, weight: float
) -> None:
    """Each is W + w·ΔW, all others are as they were, and so are graphs, inputs of the probes, and the preview."""
    before, after = open_bundle(tiny_bundle), open_bundle(fused)
    expected = changed_by(before, style, component, weight)
    assert len(expected) > 10
    old, new = before.weights(component), after.weights(component)
    assert new.named == old.named
    for name, row in old.named.weights.items():
        if name in expected:
            np.testing.assert_allclose(new.array(name), expected[name], rtol=0.0, atol=1e-6)
            assert not np.array_equal(new.array(name), old.array(name))
        elif row.places:
            np.testing.assert_array_equal(new.array(name), old.array(name))
    record = before.manifest.components[component]
    changed = {name for name, file in before.manifest.files.items() if after.manifest.files[name] != file}
    assert {record.weights, record.probes} <= changed
    assert record.onnx not in changed
    for old_probe, probe in zip(before.probes(component), after.probes(component), strict=True):
        assert probe.profile == old_probe.profile
        for name, array in old_probe.inputs.items():
            np.testing.assert_array_equal(probe.inputs[name], array)
        for name, array in old_probe.outputs.items():
            assert probe.outputs[name].shape == array.shape
            assert not np.allclose(probe.outputs[name], array, atol=1e-3)
    assert after.manifest.preview == before.manifest.preview


@pytest.mark.parametrize("component", ["unet", "text_encoder"])
def test_an_engine_of_it_is_the_plain_one_with_the_lora(
    fused: Path, tiny_bundle: Path, style: Path, component: str
) -> None:
    """What a call with the LoRA runs, and what the fused bundle runs, answer alike."""
    source, made = open_bundle(tiny_bundle), open_bundle(fused)
    loras = loras_from_arguments([f"{style}:0.8:0.5"])
    changes = changes_from_loras(loras, *model_weights_of(source))[component]
    probe = made.probes(component)[0]
    answers = []
    for bundle, changed in ((source, changes), (made, None)):
        components = OpenComponents(bundle, Backend.ORT_CPU, threads=1)
        engine = components.engine(component, Shapes(profile=probe.profile), changed)
        answers.append(run_any_batch(engine, probe.inputs))
        components.close()
    for name, reference in probe.outputs.items():
        assert parity_of(answers[0][name], answers[1][name]).psnr > 110.0
        assert parity_of(answers[0][name], reference).psnr > 110.0


def test_a_peft_folders_config_counts(tmp_path: Path) -> None:
    """Another alpha is another LoRA, though the tensors are the same."""
    folder = save_peft(tmp_path / "style", lora_of("conv_in", (32, 4, 3, 3)), {"peft_type": "LORA", "r": 2})
    (before,) = lora_records(loras_from_arguments([folder]))
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 1}', "utf-8")
    (after,) = lora_records(loras_from_arguments([folder]))
    assert (before.name, before.file) == (after.name, after.file) == ("style", "style")
    assert before.sha256 != after.sha256


def test_built_again_it_is_up_to_date(fused: Path, style: Path) -> None:
    """By the digests of the file and of the bundle that it was fused into; other weights are another bundle."""
    source = fused.with_name("tiny.bundle")
    assert latentrt.build(source, fused, loras=[(style, 0.8, 0.5)]).up_to_date
    bundle, manifest = open_bundle(source), open_bundle(fused).manifest
    for change in ({"loras": ()}, {"fused_from": "0" * 64}, {"latentrt": "0"}):
        assert not fusing._fused_alike(manifest, manifest.model_copy(update=change))
    assert fusing._digest(bundle.manifest) == manifest.fused_from
    other = bundle.manifest.defaults.model_copy(update={"num_inference_steps": 3})
    assert fusing._digest(bundle.manifest.model_copy(update={"defaults": other})) != manifest.fused_from


def request_for(model: Path, loras: list[Any]) -> BuildRequest:
    """A build from a model."""
    return BuildRequest(
        model=str(model),
        output=None,
        precision=None,
        profiles=(),
        engines=engines_to_make(Backend.ORT_CPU, (), None),
        seamless=Seamless.NONE,
        fp32=(),
        loras=loras_from_arguments(loras),
        choices=Choices(),
        quantization=None,
    )


def plan_for(model: Path, loras: list[Any]) -> BundlePlan:
    """Its plan, with the weights that it builds from."""
    request = request_for(model, loras)
    return plan_from_request(request).with_fused(request.loras)


@pytest.mark.parametrize("component", ["unet", "text_encoder"])
def test_of_a_model_before_the_export(tiny_checkpoint: Path, tiny_bundle: Path, style: Path, component: str) -> None:
    """The modules that are traced and run hold W + w·ΔW in fp32."""
    plain, plan = plan_for(tiny_checkpoint, []), plan_for(tiny_checkpoint, [f"{style}:0.8"])
    expected = changed_by(open_bundle(tiny_bundle), style, component, 0.8)
    before, after = (one.checkpoint.parts[component].module().state_dict() for one in (plain, plan))
    changed = 0
    for name, tensor in after.items():
        key = name if component == "unet" or name.startswith("text_model.") else f"text_model.{name}"
        if key in expected:
            np.testing.assert_allclose(tensor, expected[key], rtol=0.0, atol=1e-6)
            changed += 1
        else:
            np.testing.assert_array_equal(tensor, before[name])
    assert changed == len(expected)
    assert plan.checkpoint.decisions["loras"].value == "style 0.8"


@pytest.mark.usefixtures("files")
def test_numbers_beyond_float32_are_refused_of_a_model(tiny_checkpoint: Path) -> None:
    """Before anything is traced."""
    part = plan_for(tiny_checkpoint, ["huge.safetensors:1e4"]).checkpoint.parts["unet"]
    with (
        np.errstate(all="ignore"),
        pytest.raises(latentrt.CheckpointError, match=r"infinite numbers from the LoRAs in .*; lower their weights"),
    ):
        part.module()


def test_they_decide_whether_a_models_bundle_is_up_to_date(
    tiny_checkpoint: Path, tiny_bundle: Path, style: Path, tmp_path: Path
) -> None:
    """Other weights, another file, none at all, or a bundle that was fused from a bundle: it is built anew."""
    plain = plan_from_request(request_for(tiny_checkpoint, []))
    plan = plan_from_request(request_for(tiny_checkpoint, [f"{style}:0.8"]))
    old = open_bundle(tiny_bundle).manifest
    plain, plan = replace(plain, profiles=old.profiles), replace(plan, profiles=old.profiles)
    assert plain.made(old)
    assert not plan.made(old)
    decisions = {**old.source.decisions, "loras": plan.checkpoint.decisions["loras"]}
    made = old.model_copy(
        update={"loras": plan.loras, "source": old.source.model_copy(update={"decisions": decisions})}
    )
    assert plan.made(made)
    assert not plain.made(made)
    assert not plan.made(made.model_copy(update={"fused_from": "0" * 64}))
    copy = save(tmp_path / "style.safetensors", {"lora_unet_conv_in.diff": np.zeros((32, 4, 3, 3), np.float32)})
    assert not replace(plan_from_request(request_for(tiny_checkpoint, [f"{copy}:0.8"])), profiles=old.profiles).made(
        made
    )


def test_token_embeddings_are_changed_in_their_table(tiny_copy: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    """No graph has them: the text encoder's runs in torch stay, and from a model it is the same table."""
    before = open_bundle(tiny_copy)
    shape = before.weights("text_encoder").shape(TABLE)
    difference = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    stem = "lora_te_" + TABLE.removesuffix(".weight").replace(".", "_")
    words = save(tmp_path / "words.safetensors", {f"{stem}.diff": difference})
    made = latentrt.build(tiny_copy, tmp_path / "fused.bundle", loras=[f"{words}:0.5"]).bundle
    table = made.weights("text_encoder").array(TABLE)
    np.testing.assert_allclose(table, before.weights("text_encoder").array(TABLE) + 0.5 * difference, atol=1e-6)
    assert made.manifest.components["text_encoder"].reference is Reference.TORCH
    file = made.manifest.token_embeddings["text_encoder"].file
    changed = {name for name, record in made.manifest.files.items() if before.manifest.files[name] != record}
    assert changed == {file}
    with latentrt.open(tiny_copy) as pipe, pytest.raises(latentrt.RequestError, match="fuse it into a bundle"):
        pipe.load_lora(words)
    module = plan_for(tiny_checkpoint, [f"{words}:0.5"]).checkpoint.parts["text_encoder"].module()
    np.testing.assert_array_equal(module.get_input_embeddings().weight, table)


def test_weight_zero_changes_nothing(tiny_copy: Path, style: Path, tmp_path: Path) -> None:
    """The bundle says so, and its files and engines are the same; another build may be at the source."""
    with locked(tiny_copy):
        made = latentrt.build(tiny_copy, tmp_path / "fused.bundle", loras=[f"{style}:0"]).bundle
    assert made.manifest.files == open_bundle(tiny_copy).manifest.files
    assert [str(lora) for lora in made.manifest.loras] == ["style 0"]
    assert all(record.reference is Reference.TORCH for record in made.manifest.components.values())


def test_what_a_record_reads_like() -> None:
    """One weight where both are the same."""
    lora = LoraRecord(name="a", file="a.pt", sha256="0", weight=-0.5, text_weight=-0.5)
    assert str(lora) == "a -0.5"
    assert str(lora.model_copy(update={"text_weight": 0.0})) == "a -0.5/0"


@pytest.mark.parametrize(
    ("way", "error"),
    [
        ("raises", KeyboardInterrupt),
        ("disk", latentrt.OutputError),
        ("another source", latentrt.BundleError),
    ],
)
def test_what_fails_leaves_nothing(
    tiny_copy: Path,
    style: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
    error: type[BaseException],
) -> None:
    """Neither half a bundle nor another one in the place of an earlier; nor one of two sources."""
    made = tmp_path / "fused.bundle"
    earlier, before = shutil.copytree(tiny_copy, made), open_bundle(tiny_copy).manifest

    def fail(root: Path, manifest: Any, *_: Any) -> Any:
        if way == "another source":
            written = json.loads((tiny_copy / "bundle.json").read_text("utf-8"))
            write_sealed(tiny_copy / "bundle.json", {**written, "latentrt": "0.0.1"})
            return manifest
        raise KeyboardInterrupt if way == "raises" else OSError(28, "No space left on device")

    monkeypatch.setattr(fusing, "compile_all", fail)
    with pytest.raises(error, match="built anew" if way == "another source" else None):
        latentrt.build(tiny_copy, made, loras=[style])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fused.bundle", "tiny.bundle"]
    assert open_bundle(earlier).manifest == before
    open_bundle(earlier).check_all()


@pytest.fixture
def files(style: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files by short names in the working directory."""
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(style, "style.safetensors")
    Path("other").mkdir()
    shutil.copyfile(style, "other/style.safetensors")
    wide = lora_of("lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k", (64, 1024))
    save(Path("sd2.safetensors"), wide)
    save(Path("vae.safetensors"), lora_of("lora_vae_decoder_conv_in", (64, 4, 3, 3)))
    save(Path("huge.safetensors"), kohya(open_bundle(tiny_bundle), {"unet": "lora_unet_"}, 1e36))
    Path("empty.safetensors").touch()
    Path("text.txt").write_text("no tensors")


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("lora", "complaint"),
    [
        ("nowhere.safetensors:1", "got LoRA 'nowhere.safetensors', which does not exist"),
        ("style.safetensors:much", "got weight 'much' for LoRA 'style.safetensors'"),
        ("sd2.safetensors", "'sd2.safetensors' was made for Stable Diffusion 2.x"),
        ("vae.safetensors", "'lora_vae_decoder_conv_in."),
        ("empty.safetensors", "'empty.safetensors' is empty"),
        ("text.txt", "'text.txt'"),
        ("huge.safetensors:1e4", "lower its strength, or use a bundle in fp32"),
    ],
)
def test_a_lora_that_is_refused(tiny_copy: Path, command: Callable[..., Any], lora: str, complaint: str) -> None:
    """One sentence, and nothing is written."""
    ran = command("build", tiny_copy, "-o", "fused.bundle", "--lora", lora)
    assert (ran.status, ran.stdout) == (2, "")
    assert complaint in ran.stderr.splitlines()[-1]
    assert not [path for path in Path().iterdir() if "fused" in path.name]


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"loras": ["style.safetensors", "other/style.safetensors"]}, "got two LoRAs called 'style'"),
        ({"output": None}, "got no output folder"),
        ({"output": "tiny.bundle"}, "as the bundle and as the result; choose another folder"),
        ({"precision": "fp16"}, "got precision fp16 for a bundle built in fp32; build from the model"),
        ({"precision": "int8"}, "fuse the LoRAs first, and build int8 of the result: latentrt build FUSED"),
        ({"profiles": ["64x64"]}, "got profile 64x64 for a bundle made for"),
        ({"seamless": "x"}, "build from the model with seamless 'x'"),
        ({"vae": "a"}, "build from the model with them"),
    ],
)
def test_what_a_bundle_cannot_be_fused_with(tiny_copy: Path, options: dict[str, Any], complaint: str) -> None:
    """One sentence, and nothing is written."""
    with pytest.raises(latentrt.RequestError) as refused:
        latentrt.build(tiny_copy, **{"output": "fused.bundle", "loras": ["style.safetensors"], **options})
    assert complaint in str(refused.value)
    assert not [path for path in Path().iterdir() if "fused" in path.name]


@pytest.mark.usefixtures("files")
def test_a_bundle_that_has_the_lora_already(fused: Path, tmp_path: Path) -> None:
    """It is refused under the same name; another LoRA is added to what is there."""
    source = shutil.copytree(fused, tmp_path / "tiny-fused.bundle")
    with pytest.raises(latentrt.RequestError, match=r"that has it fused already \(style 0\.8/0\.5\)"):
        latentrt.build(source, "twice.bundle", loras=["style.safetensors"])
    shutil.copyfile("style.safetensors", "more.safetensors")
    made = latentrt.build(source, "twice.bundle", loras=["more.safetensors:0.2:0.5"]).bundle
    assert [str(lora) for lora in made.manifest.loras] == ["style 0.8/0.5", "more 0.2/0.5"]
    assert made.manifest.source.decisions["loras"].value == "style 0.8/0.5, more 0.2/0.5"


def test_an_int8_bundle_is_refused_with_advice(tiny_bundle: Path) -> None:
    """Its weights are rounded as they are."""
    bundle = open_bundle(tiny_bundle)
    int8 = replace(bundle, manifest=bundle.manifest.model_copy(update={"precision": Precision.INT8}))
    with pytest.raises(
        latentrt.RequestError, match=r"in fp32, and build int8 of that: latentrt build FUSED --precision"
    ):
        fusing.fuse_bundle(int8, Path("fused.bundle"), (), engines_to_make(Backend.ORT_CPU, (), None), StageTimer())


@pytest.mark.usefixtures("files")
def test_a_wrong_lora_for_a_model_is_refused_before_torch(tiny_checkpoint: Path) -> None:
    """In a process where torch cannot be imported."""
    code = f"""
import sys
sys.modules["torch"] = None
from latentrt.cli.app import main
main(["build", {str(tiny_checkpoint)!r}, "--lora", "sd2.safetensors", "-o", "new.bundle"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "'sd2.safetensors' was made for Stable Diffusion 2.x" in done.stderr
    assert done.returncode == 2


def decibels(picture: Array, reference: Array) -> float:
    """PSNR of pictures in [0, 1]."""
    return psnr(picture, reference, peak=1.0)


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "least"), [("fp32", 50.0), ("fp16", 40.0)])
def test_every_way_draws_the_same(
    tiny_checkpoint: Path, style: Path, tmp_path: Path, precision: str, least: float
) -> None:
    """Fused into the model, fused into its bundle, and an argument of the call."""
    options: dict[str, Any] = {"precision": precision, "profiles": ["32x32"]}
    plain = latentrt.build(tiny_checkpoint, tmp_path / "plain.bundle", **options).bundle.root
    of_bundle = latentrt.build(plain, tmp_path / "of-bundle.bundle", loras=[f"{style}:0.8"]).bundle.root
    of_model = latentrt.build(tiny_checkpoint, tmp_path / "of-model.bundle", loras=[f"{style}:0.8"], **options)
    assert all(record.reference is Reference.TORCH for record in of_model.bundle.manifest.components.values())
    assert latentrt.build(tiny_checkpoint, of_model.bundle.root, loras=[f"{style}:0.8"], **options).up_to_date
    reference = drawn(of_bundle)
    assert decibels(drawn(plain), reference) < 35.0
    assert decibels(drawn(of_model.bundle.root), reference) >= least
    assert decibels(drawn(plain, style, loras={"style": 0.8}), reference) >= least


@pytest.mark.slow
def test_int8_of_a_fused_bundle(emoji_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of any other in fp32; what was fused is told by the result."""
    monkeypatch.setattr("latentrt.quantization.settings.EFFORT", Effort(steps=2, pictures=3))
    source = shutil.copytree(emoji_bundle, tmp_path / "emoji.bundle")
    style = save(tmp_path / "style.safetensors", kohya(open_bundle(source), _PREFIXES, 0.01))
    fused = latentrt.build(source, tmp_path / "fused.bundle", loras=[style]).bundle.root
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat\nred apple\nfrog\n", "utf-8")
    made = latentrt.build(fused, tmp_path / "int8.bundle", precision="int8", prompts=prompts, quality=24.0).bundle
    assert [str(lora) for lora in made.manifest.loras] == ["style 1"]
    assert made.manifest.components["unet"].precision is Precision.INT8
    assert decibels(drawn(made.root), drawn(fused)) > decibels(drawn(source), drawn(fused))
    with pytest.raises(latentrt.RequestError, match="a bundle in int8, whose weights are rounded"):
        latentrt.build(made.root, tmp_path / "again.bundle", loras=[style])


@pytest.mark.slow
def test_both_text_encoders_of_sdxl(family_bundle: Callable[[str], Path], tmp_path: Path) -> None:
    """Layers that nothing is taken from may be in the file."""
    source = shutil.copytree(family_bundle("sdxl"), tmp_path / "sdxl.bundle")
    style = save(tmp_path / "style.safetensors", kohya(open_bundle(source), _XL_PREFIXES, 0.01))
    made = latentrt.build(source, tmp_path / "fused.bundle", loras=[style]).bundle
    references = {name: record.reference for name, record in made.manifest.components.items()}
    assert {name for name, one in references.items() if one is Reference.ONNX} == set(_XL_PREFIXES)
    assert decibels(drawn(made.root), drawn(source)) < 40.0


@pytest.mark.slow
def test_killed_at_any_moment(tiny_copy: Path, style: Path, tmp_path: Path) -> None:
    """What is there is a whole bundle or none, and the next build clears up."""
    made = tmp_path / "fused.bundle"
    arguments = [sys.executable, "-m", "latentrt", "build", str(tiny_copy), "--lora", str(style), "-o", str(made)]
    begin = time.perf_counter()
    subprocess.run(arguments, check=True, capture_output=True)
    length = time.perf_counter() - begin
    shutil.rmtree(made)
    for share in (0.4, 0.6, 0.7, 0.8, 0.9, 0.97):
        process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(share * length)
        process.kill()
        process.wait()
        if made.exists():
            open_bundle(made).check_all()
            shutil.rmtree(made)
    subprocess.run(arguments, check=True, capture_output=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fused.bundle", "tiny.bundle"]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_the_model_may_be_one_file(family_checkpoint: Callable[[str], Path], tmp_path: Path, family: str) -> None:
    """Its tensors have other names; by ours it has the same weights."""
    from single_files import save_single_file

    folder = family_checkpoint(family)
    single = save_single_file(folder, tmp_path / "model.safetensors")
    parts = checkpoint_from_headers(str(single), Choices(base=str(folder), family=family)).parts
    for name, part in checkpoint_from_headers(str(folder)).parts.items():
        if name != "vae":
            assert part.weight_shapes.items() <= parts[name].weight_shapes.items()
