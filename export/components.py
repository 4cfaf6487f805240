"""A checkpoint's components, one after the other: loaded, traced to ONNX, run once in torch, let go."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from latentrt.engines.bundle.checked_files import record_files
from latentrt.engines.bundle.kinds import UNET, VAE_DECODER, VAE_ENCODER, ComponentKind
from latentrt.engines.bundle.records.conditioning import ConditioningRecord, PoseRecord, TextEncoderRecord
from latentrt.engines.bundle.records.manifests.components_manifest import SourceRecord
from latentrt.engines.bundle.records.manifests.manifest import (
    BundleManifest,
    PreviewRecord,
    TokenEmbeddingsRecord,
    TokenizerRecord,
)
from latentrt.engines.bundle.records.manifests.manifest_file import SCHEMA
from latentrt.engines.bundle.records.seamless import Seamless
from latentrt.engines.bundle.tokenizer import Tokenizer, tokenizer_from_folder
from latentrt.engines.errors import CheckpointError
from latentrt.engines.precision import Precision
from latentrt.engines.progress import Progress
from latentrt.engines.shapes import Profile
from latentrt.export.component_exports import ComponentExports, release
from latentrt.export.modules.seamless import seamless_module
from latentrt.export.modules.text_encoder import (
    load_text_encoder,
    text_encoder_graph,
    token_embedding_weight,
    write_token_embeddings,
)
from latentrt.export.modules.unet import load_unet, unet_graph
from latentrt.export.modules.vae import load_vae, vae_decoder_graph, vae_encoder_graph
from latentrt.export.modules.video_unet import load_video_unet, video_unet_graph
from latentrt.export.picture_parts import chunks_of_video, export_image_encoder, moved
from latentrt.export.quiet import quiet
from latentrt.export.sources.checkpoint import Checkpoint
from latentrt.export.sources.family import POSE_PART, TextEncoderRow
from latentrt.export.tracing.preview import fit_preview
from latentrt.export.tracing.probes import (
    added_inputs,
    masked_photograph,
    masks,
    noised_latents,
    photograph_pixels,
    record_probe,
    timesteps,
    token_ids,
    with_channels,
)
from latentrt.export.tracing.versions import exporter_versions

_T = TypeVar("_T")


@dataclass(kw_only=True)
class _Exports(ComponentExports):
    """Those of a model."""

    checkpoint: Checkpoint


def export_components(
    checkpoint: Checkpoint,
    root: Path,
    precision: Precision,
    profiles: Sequence[Profile],
    progress: Progress,
    seamless: Seamless = Seamless.NONE,
    kept_fp32: Sequence[str] = (),
) -> BundleManifest:
    """Writes every component's ONNX, probes and the tokenizer below ``root``.

    ``kept_fp32`` names components that stay in fp32 whatever the precision. At most one component is in memory at a
    time, but for the autoencoder's two halves.

    Returns:
        The manifest, with parity figures still to be measured.

    Raises:
        CheckpointError: weights that are not the modules', that torch cannot load, or that are not finite.
        ParityError: activations that fp16 cannot hold.
    """
    run = _Exports(
        family=checkpoint.family.name,
        guided=checkpoint.guided,
        latent_channels=checkpoint.latents.channels,
        root=root,
        precision=precision,
        profiles=profiles,
        progress=progress,
        seamless=seamless,
        kept_fp32=kept_fp32,
        checkpoint=checkpoint,
    )
    family, tokenizers, embeddings = checkpoint.family, {}, {}
    prompts = []
    with progress.stage("weights: check"):
        checkpoint.check_tokenizers()
        checkpoint.check_values()
    with quiet():
        for row in family.text_encoders:
            length = checkpoint.parts[row.part].config["max_position_embeddings"]
            tokenizer = _write_tokenizer(checkpoint, row.tokenizer, root, length)
            tokenizers[row.tokenizer] = TokenizerRecord(folder=row.tokenizer, length=length)
            encoded, embeddings[row.part] = _export_text_encoder(run, row, tokenizer)
            prompts.append(encoded)
        seen = export_image_encoder(run, checkpoint)
        pictures, preview = _export_autoencoder(run)
        if seen is None:
            _export_unet(run, prompts, pictures)
        else:
            _export_unet_of_token(run, seen, pictures)
    files = [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()]
    with progress.stage("digests"):
        source = SourceRecord(
            name=checkpoint.name,
            revision=checkpoint.revision,
            decisions=dict(checkpoint.decisions),
            unread=checkpoint.unread,
            files=checkpoint.files,
        )
        recorded = record_files(root, files)
    return BundleManifest(
        schema_version=SCHEMA,
        latentrt=version("latentrt"),
        exporter=exporter_versions(),
        family=checkpoint.family.name,
        source=source,
        precision=precision,
        kept_fp32=tuple(kept_fp32),
        components=run.records,
        profiles=tuple(profiles),
        pixel_multiple=checkpoint.pixel_multiple,
        schedule=checkpoint.schedule(),
        latents=checkpoint.latents,
        preview=preview,
        seamless=seamless,
        conditioning=ConditioningRecord(
            text_encoders=tuple(
                TextEncoderRecord(component=row.part, tokenizer=row.tokenizer, pooled=row.pooled)
                for row in family.text_encoders
            ),
            image_encoder=checkpoint.image_encoder,
            pose=None if family.pose is None else PoseRecord(component=POSE_PART, kind=family.pose),
            concatenated=family.concatenated,
            time_ids=family.time_ids,
            zero_empty_negative=checkpoint.zero_empty_negative,
        ),
        traits=family.traits,
        tokenizers=tokenizers,
        token_embeddings=embeddings,
        defaults=checkpoint.defaults,
        files=recorded,
    )


@dataclass(frozen=True, kw_only=True)
class _Prompts:
    """What a text encoder makes of the four probe prompts: states (4, L, width), pooled (4, projection) or None."""

    states: torch.Tensor
    pooled: torch.Tensor | None


@dataclass(frozen=True, kw_only=True)
class _Picture:
    """What the autoencoder makes of the photograph at a profile: the latents' mean (1, C, h, w), unscaled, and the
    channels (1, …, h, w) that a U-Net takes behind the latents, or None."""

    profile: Profile
    mean: torch.Tensor
    channels: torch.Tensor | None


def _export_text_encoder(
    run: _Exports, row: TextEncoderRow, tokenizer: Tokenizer
) -> tuple[_Prompts, TokenEmbeddingsRecord]:
    """Exports a text encoder and its table."""
    with run.progress.stage(f"{row.part}: load"):
        module, table, unused = _loaded(lambda: load_text_encoder(run.checkpoint, row), row.part)
        embeddings = write_token_embeddings(run.root, row.part, table)
    graph = text_encoder_graph(run.checkpoint, row)
    with run.reference(row.part):
        ids = token_ids(tokenizer)
        vectors, ends = table[torch.from_numpy(ids)], torch.from_numpy(tokenizer.end_positions(ids))
        seen, some = map(torch.from_numpy, masks(tokenizer.length))
        probes = []
        for pair, mask in ((slice(0, 2), seen), (slice(2, 4), seen), (slice(2, 4), some)):
            inputs = {"inputs_embeds": vectors[pair], "attention_mask": mask, "end_position": ends[pair]}
            wanted = {name: inputs[name] for name in graph.inputs}
            probes.append(record_probe(module, run.profiles[0], wanted, list(graph.outputs)))
    outside = {**token_embedding_weight(run.root, embeddings), **unused}
    run.component(row.part, ComponentKind.TEXT_ENCODER, module, graph, probes, outside)
    results = {
        name: torch.from_numpy(np.concatenate([probe.outputs[name] for probe in probes[:2]])) for name in graph.outputs
    }
    release(module)
    return _Prompts(states=results["hidden_states"][:, -1], pooled=results.get("text_embeds")), embeddings


def _export_autoencoder(run: _Exports) -> tuple[list[_Picture], PreviewRecord]:
    """Exports the autoencoder's halves, and fits a preview to them."""
    checkpoint = run.checkpoint
    with run.progress.stage("vae: load"):
        encoder, decoder = (
            seamless_module(half, run.seamless) for half in _loaded(lambda: load_vae(checkpoint), "vae")
        )
    with run.reference("vae"):
        encoded = [
            record_probe(
                encoder, profile, {"sample": torch.from_numpy(photograph_pixels(profile))}, ["latent_parameters"]
            )
            for profile in run.profiles
        ]
        means = [torch.from_numpy(probe.outputs["latent_parameters"]).chunk(2, 1)[0] for probe in encoded]
        decoded = [
            record_probe(decoder, probe.profile, {"latent_sample": latents}, ["sample"])
            for probe, mean in zip(encoded, means, strict=True)
            for latents in (
                chunks_of_video(mean, probe.profile.frames) if checkpoint.family.draws_videos else (mean.contiguous(),)
            )
        ]
        pictures = [
            _Picture(profile=profile, mean=mean, channels=_channels(encoder, checkpoint, profile, mean))
            for profile, mean in zip(run.profiles, means, strict=True)
        ]
    run.component(VAE_ENCODER, ComponentKind.VAE_ENCODER, encoder, vae_encoder_graph(checkpoint), encoded)
    kind = ComponentKind.TEMPORAL_DECODER if checkpoint.family.draws_videos else ComponentKind.VAE_DECODER
    run.component(VAE_DECODER, kind, decoder, vae_decoder_graph(checkpoint), decoded)
    with run.progress.stage("vae: preview"):
        smallest = min(min(profile.width, profile.height) for profile in run.profiles)
        preview = fit_preview(encoder, decoder, checkpoint.latents, smallest)
    release(encoder)
    release(decoder)
    return pictures, preview


def _export_unet(run: _Exports, prompts: Sequence[_Prompts], pictures: Sequence[_Picture]) -> None:
    """Exports the U-Net."""
    checkpoint = run.checkpoint
    with run.progress.stage("unet: load"):
        unet = seamless_module(_loaded(lambda: load_unet(checkpoint), "unet"), run.seamless)
    graph = unet_graph(checkpoint)
    contexts = torch.cat([encoder.states for encoder in prompts], dim=-1)
    pooled = next((encoder.pooled for encoder in prompts if encoder.pooled is not None), None)
    # One chunk, two chunks (a long prompt), one chunk
    one, other = slice(0, 2), slice(2, 4)
    told = [
        (contexts[one], one),
        (torch.cat([contexts[one], contexts[other]], dim=1), one),
        (contexts[other], other),
    ]
    with run.reference(UNET):
        probes = []
        for picture in pictures:
            first = picture.profile == run.profiles[0]
            for index, steps in enumerate(timesteps(checkpoint, first_profile=first)):
                context, pair = told[index % len(told)]
                noised = noised_latents(checkpoint, checkpoint.latents.scaled(picture.mean), steps)
                inputs = {
                    "sample": with_channels(noised, picture.channels),
                    "timestep": torch.tensor(steps, dtype=torch.float32),
                    "encoder_hidden_states": context,
                    **({} if pooled is None else {"text_embeds": pooled[pair]}),
                    **added_inputs(checkpoint, picture.profile),
                }
                wanted = {name: inputs[name] for name in graph.inputs}
                probes.append(record_probe(unet, picture.profile, wanted, ["out_sample"]))
    run.component(UNET, ComponentKind.UNET, unet, graph, probes)
    release(unet)


def _export_unet_of_token(run: _Exports, token: torch.Tensor, pictures: Sequence[_Picture]) -> None:
    """Exports a U-Net that attends to the one token (2, 1, width) that a picture and none become."""
    checkpoint = run.checkpoint
    videos = checkpoint.family.draws_videos
    with run.progress.stage("unet: load"):
        load = load_video_unet if videos else load_unet
        unet = seamless_module(_loaded(lambda: load(checkpoint), "unet"), run.seamless)
    graph = (video_unet_graph if videos else unet_graph)(checkpoint)
    with run.reference(UNET):
        probes = []
        for picture in pictures:
            clean = checkpoint.latents.scaled(picture.mean)
            clean = moved(clean, picture.profile.frames) if videos else clean
            steps_of_pairs = timesteps(checkpoint, first_profile=picture.profile == run.profiles[0])
            for steps in steps_of_pairs[:2] if videos else steps_of_pairs:  # as much work as a dozen pictures each
                inputs = {
                    "sample": with_channels(noised_latents(checkpoint, clean, steps), picture.channels),
                    "timestep": torch.tensor(steps, dtype=torch.float32),
                    "encoder_hidden_states": token,
                    **added_inputs(checkpoint, picture.profile),
                }
                wanted = {name: inputs[name] for name in graph.inputs}
                probes.append(record_probe(unet, picture.profile, wanted, ["out_sample"]))
    run.component(UNET, ComponentKind.VIDEO_UNET if videos else ComponentKind.UNET, unet, graph, probes)
    release(unet)


def _channels(
    encoder: torch.nn.Module, checkpoint: Checkpoint, profile: Profile, mean: torch.Tensor
) -> torch.Tensor | None:
    """What a U-Net that takes a mask or a picture sees behind the latents (1, …, h, w); None for one that does not."""
    latents, told = checkpoint.latents, checkpoint.family.concatenated
    if told is not None:
        return latents.scaled(mean) if told.scaled else mean
    if checkpoint.unet["in_channels"] == latents.channels:
        return None
    mask, pixels = masked_photograph(profile, latents)
    with torch.inference_mode():
        mean = encoder(torch.from_numpy(pixels))[0].chunk(2, 1)[0]
    return torch.cat([torch.from_numpy(mask), latents.scaled(mean)], 1)


def _loaded(load: Callable[[], _T], part: str) -> _T:
    """Loads a part; what the libraries raise for damaged or foreign weights becomes one sentence."""
    try:
        return load()
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0][:300]
        raise CheckpointError(f"{part} cannot be loaded ({first}); download the model again") from error


def _write_tokenizer(checkpoint: Checkpoint, name: str, root: Path, length: int) -> Tokenizer:
    """Stores the tokenizer as one ``tokenizer.json`` with its padding token, and opens it from there."""
    source, folder = checkpoint.tokenizers[name], root / name
    tokenizer = tokenizer_from_folder(source, length=length)
    folder.mkdir(parents=True)
    tokenizer.save(folder / "tokenizer.json")
    config = {"pad_token": tokenizer.pad_token}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    return tokenizer
