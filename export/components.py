"""A checkpoint's components, one after the other: loaded, traced to ONNX, run once in torch, let go."""

import gc
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from latentrt.engines.bundle import Probe, record_files, write_probes
from latentrt.engines.errors import CheckpointError
from latentrt.engines.manifest import (
    SCHEMA,
    TEXT_ENCODER,
    TOKENIZER,
    BundleManifest,
    ComponentRecord,
    ParityRecord,
    PreviewRecord,
    SourceRecord,
    TokenEmbeddingsRecord,
    TokenizerRecord,
)
from latentrt.engines.precision import Precision
from latentrt.engines.profile import Profile
from latentrt.engines.progress import Progress
from latentrt.engines.seamless import Seamless
from latentrt.engines.spec import Array
from latentrt.export.checkpoint import Checkpoint
from latentrt.export.onnx_export import Graph, export_onnx, quiet
from latentrt.export.preview import fit_preview
from latentrt.export.probes import (
    masked_photograph,
    masks,
    noised_latents,
    photograph,
    record_probe,
    timesteps,
    token_ids,
    with_channels,
)
from latentrt.export.seamless import seamless_module
from latentrt.export.text_encoder import load_text_encoder, text_encoder_graph, write_token_embeddings
from latentrt.export.unet import load_unet, unet_graph
from latentrt.export.vae import load_vae, vae_decoder_graph, vae_encoder_graph
from latentrt.export.versions import exporter_versions
from latentrt.runtime.tokenizer import Tokenizer, tokenizer_from_folder

_T = TypeVar("_T")
_UNMEASURED = ParityRecord(relative_error=float("nan"), psnr=float("nan"), cases=0)
# How many samples one picture brings: guidance doubles the text encoder's and the U-Net's batch.
_BATCH_PER_PICTURE = {"text_encoder": 2, "unet": 2, "vae_encoder": 1, "vae_decoder": 1}


@dataclass
class _Export:
    """One run over all components."""

    checkpoint: Checkpoint
    root: Path
    precision: Precision
    profiles: Sequence[Profile]
    progress: Progress
    seamless: Seamless
    records: dict[str, ComponentRecord]

    def component(self, name: str, module: torch.nn.Module, graph: Graph, probes: Sequence[Probe]) -> None:
        """Traces one module, refuses weights that are not finite, and records what was written."""
        broken = [key for key, tensor in module.state_dict().items() if not torch.isfinite(tensor).all()]
        if broken:
            raise CheckpointError(
                f"{name} has NaN or infinite weights in {broken[0]} and {len(broken) - 1} other tensors; "
                "download the model again or choose another"
            )
        folder = f"onnx/{self.precision}/{name}"
        example = {key: torch.from_numpy(array) for key, array in _pair(probes[0]).items()}
        with self.progress.stage(f"{name}: trace"):
            written = export_onnx(module, example, graph, self.root / folder)
        write_probes(self.root / "probes" / f"{name}.safetensors", probes)
        weights = [file for file in written if not file.endswith(".onnx")]
        self.records[name] = ComponentRecord(
            onnx=f"{folder}/model.onnx",
            weights=f"{folder}/{weights[0]}" if weights else None,
            precision=self.precision,
            inputs=dict(graph.inputs),
            outputs=dict(graph.outputs),
            probes=f"probes/{name}.safetensors",
            parity=_UNMEASURED,
            batch_per_picture=_BATCH_PER_PICTURE[name],
            parameters=sum(parameter.numel() for parameter in module.parameters()),
        )


def _pair(probe: Probe) -> dict[str, Array]:
    """The probe's inputs with at least two samples: the tracer takes a batch of one for a constant."""
    return {
        name: np.concatenate([array, array]) if array.ndim > 1 and len(array) == 1 else array
        for name, array in probe.inputs.items()
    }


def export_components(
    checkpoint: Checkpoint,
    root: Path,
    precision: Precision,
    profiles: Sequence[Profile],
    progress: Progress,
    seamless: Seamless = Seamless.NONE,
) -> BundleManifest:
    """Writes every component's ONNX, probes and the tokenizer below ``root``.

    At most one component is in memory at a time, but for the autoencoder's two halves.

    Returns:
        The manifest, with parity figures still to be measured.

    Raises:
        CheckpointError: weights that torch cannot load, or that are not finite.
    """
    run = _Export(checkpoint, root, precision, profiles, progress, seamless, {})
    length = checkpoint.parts["text_encoder"].config["max_position_embeddings"]
    tokenizer = _write_tokenizer(checkpoint, root, length)
    with quiet():
        contexts, embeddings = _export_text_encoder(run, tokenizer)
        preview = _export_autoencoder_and_unet(run, contexts)
    files = [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()]
    with progress.stage("digests"):
        source = SourceRecord(
            name=checkpoint.name,
            revision=checkpoint.revision,
            decisions=dict(checkpoint.decisions),
            files=checkpoint.files,
        )
        recorded = record_files(root, files)
    return BundleManifest(
        schema_version=SCHEMA,
        latentrt=version("latentrt"),
        exporter=exporter_versions(),
        family=checkpoint.family.name,
        source=source,
        components=run.records,
        profiles=tuple(profiles),
        schedule=checkpoint.schedule(),
        latents=checkpoint.latents,
        preview=preview,
        seamless=seamless,
        tokenizers={TOKENIZER: TokenizerRecord(folder="tokenizer", length=length)},
        token_embeddings={TEXT_ENCODER: embeddings},
        defaults=checkpoint.family.defaults.model_copy(update={"sampler": checkpoint.sampler}),
        files=recorded,
    )


def _export_text_encoder(run: _Export, tokenizer: Tokenizer) -> tuple[torch.Tensor, TokenEmbeddingsRecord]:
    """Exports the text encoder; returns the conditioning (4, L, width) of the probe prompts, and its table."""
    with run.progress.stage("text_encoder: load"):
        module, table = _loaded(lambda: load_text_encoder(run.checkpoint), TEXT_ENCODER)
        embeddings = write_token_embeddings(run.root, TEXT_ENCODER, table, tokenizer.vocabulary_size)
    with run.progress.stage("text_encoder: reference"):
        vectors = table[torch.from_numpy(token_ids(tokenizer))]
        seen, some = map(torch.from_numpy, masks(tokenizer.length))
        probes = [
            record_probe(module, run.profiles[0], {"inputs_embeds": pair, "attention_mask": mask}, ["hidden_states"])
            for pair, mask in ((vectors[:2], seen), (vectors[2:], seen), (vectors[2:], some))
        ]
    run.component(TEXT_ENCODER, module, text_encoder_graph(run.checkpoint), probes)
    contexts = [torch.from_numpy(probe.outputs["hidden_states"])[:, -1] for probe in probes[:2]]
    return torch.cat(contexts), embeddings


def _export_autoencoder_and_unet(run: _Export, contexts: torch.Tensor) -> PreviewRecord:
    """Exports the autoencoder's halves and the U-Net; returns the preview that was fitted to them."""
    checkpoint = run.checkpoint
    scale, shift = checkpoint.latents.scaling_factor, checkpoint.latents.shift_factor
    with run.progress.stage("vae: load"):
        encoder, decoder = (
            seamless_module(half, run.seamless) for half in _loaded(lambda: load_vae(checkpoint), "vae")
        )
    with run.progress.stage("vae: reference"):
        encoded = [
            record_probe(encoder, profile, {"sample": torch.from_numpy(photograph(profile))}, ["latent_parameters"])
            for profile in run.profiles
        ]
        means = [torch.from_numpy(probe.outputs["latent_parameters"]).chunk(2, 1)[0] for probe in encoded]
        decoded = [
            record_probe(decoder, probe.profile, {"latent_sample": mean.contiguous()}, ["sample"])
            for probe, mean in zip(encoded, means, strict=True)
        ]
        masked = [_mask_channels(encoder, checkpoint, profile) for profile in run.profiles]
    run.component("vae_encoder", encoder, vae_encoder_graph(checkpoint), encoded)
    run.component("vae_decoder", decoder, vae_decoder_graph(checkpoint), decoded)
    with run.progress.stage("vae: preview"):
        smallest = min(min(profile.width, profile.height) for profile in run.profiles)
        preview = fit_preview(encoder, decoder, checkpoint.latents, smallest)
    del encoder, decoder
    gc.collect()
    with run.progress.stage("unet: load"):
        unet = seamless_module(_loaded(lambda: load_unet(checkpoint), "unet"), run.seamless)
    # One chunk, two chunks (a long prompt), one chunk
    contexts_of_probe = (contexts[:2], torch.cat([contexts[:2], contexts[2:]], dim=1), contexts[2:])
    with run.progress.stage("unet: reference"):
        probes = [
            record_probe(
                unet,
                profile,
                {
                    "sample": with_channels(
                        noised_latents(checkpoint, (mean - shift) * scale, timestep), mask_channels
                    ),
                    "timestep": torch.tensor([float(timestep)]),
                    "encoder_hidden_states": contexts_of_probe[index % len(contexts_of_probe)],
                },
                ["out_sample"],
            )
            for profile, mean, mask_channels in zip(run.profiles, means, masked, strict=True)
            for index, timestep in enumerate(timesteps(checkpoint, first_profile=profile == run.profiles[0]))
        ]
    run.component("unet", unet, unet_graph(checkpoint), probes)
    del unet
    gc.collect()
    return preview


def _mask_channels(encoder: torch.nn.Module, checkpoint: Checkpoint, profile: Profile) -> torch.Tensor | None:
    """What a U-Net that takes a mask sees beside the latents (1, 1 + C, h, w); None for one that does not."""
    latents = checkpoint.latents
    if checkpoint.unet["in_channels"] == latents.channels:
        return None
    inputs = masked_photograph(profile)
    with torch.inference_mode():
        mean = encoder(torch.from_numpy(inputs.masked_pixels))[0].chunk(2, 1)[0]
    clean = (mean - latents.shift_factor) * latents.scaling_factor
    return torch.cat([torch.from_numpy(inputs.latent_mask(latents)), clean], 1)


def _loaded(load: Callable[[], _T], part: str) -> _T:
    """Loads a part; what the libraries raise for damaged or foreign weights becomes one sentence."""
    try:
        return load()
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0][:300]
        raise CheckpointError(f"{part} cannot be loaded ({first}); download the model again") from error


def _write_tokenizer(checkpoint: Checkpoint, root: Path, length: int) -> Tokenizer:
    """Stores the tokenizer as one ``tokenizer.json`` with its padding token, and opens it from there."""
    source, folder = checkpoint.tokenizers["tokenizer"], root / "tokenizer"
    tokenizer = tokenizer_from_folder(source, length=length)
    folder.mkdir(parents=True)
    tokenizer.save(folder / "tokenizer.json")
    config = {"pad_token": tokenizer.pad_token}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    return tokenizer
