"""What every component goes through: checked, traced, recorded, run in torch."""

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from latentrt.engines.bundle.checks.probes import Probe, write_probes
from latentrt.engines.bundle.kinds import ComponentKind
from latentrt.engines.bundle.records.component import ComponentRecord, ParityRecord
from latentrt.engines.bundle.records.named_weights import NamedWeights, WeightRecord, write_named_weights
from latentrt.engines.bundle.records.seamless import Seamless
from latentrt.engines.bundle.unet.added_inputs import previous
from latentrt.engines.graphs.editor import load_graph, save_graph
from latentrt.engines.graphs.islands import Island, asked_islands, islands_of, refuse_unmatched
from latentrt.engines.graphs.summed_outputs import add_previous
from latentrt.engines.precision import Precision
from latentrt.engines.progress import Progress
from latentrt.engines.shapes import Profile
from latentrt.engines.spec import BATCH, Array
from latentrt.export.modules.component_module import ComponentModule
from latentrt.export.tracing.activations import ActivationRanges, extreme_inputs
from latentrt.export.tracing.named_weights import bundle_records
from latentrt.export.tracing.onnx_export import MODEL_FILE, Graph, export_onnx
from latentrt.export.tracing.probes import record_probe, with_previous

LARGEST_CHUNK = 4
"""Of how many frames engines of fixed shapes decode at once: at 1024×576 pixels a tensor of one has 600 MB."""
_UNMEASURED = ParityRecord(relative_error=float("nan"), psnr=float("nan"), cases=0)


@dataclass(kw_only=True)
class ComponentExports:
    """One run over all components.

    ``family`` is the model's, or that of the models which an add-on is for; ``guided`` says whether their pictures have
    an unconditional half; their latents have ``latent_channels``.
    """

    family: str
    guided: bool
    latent_channels: int
    root: Path
    precision: Precision
    profiles: Sequence[Profile]
    progress: Progress
    seamless: Seamless
    kept_fp32: Sequence[str]
    records: dict[str, ComponentRecord] = field(default_factory=dict)
    ranges: ActivationRanges = field(default_factory=ActivationRanges)

    def component(
        self,
        name: str,
        kind: ComponentKind,
        module: ComponentModule,
        graph: Graph,
        probes: Sequence[Probe],
        beside: Mapping[str, WeightRecord] | None = None,
        *,
        summed: bool = False,
    ) -> None:
        """Traces one module and records what was written.

        ``beside`` are weights of the checkpoint's part that are not the module's. ``summed`` adds to each output an
        input that may be left out: what other nets gave.
        """
        precision, islands = self._precision_of(name)
        if precision is Precision.FP16:
            probes = [*probes, *self._extreme_probes(name, kind, module, graph, probes[0])]
            self.ranges.check(name, module, islands)
        folder = f"onnx/{precision}/{name}"
        example = {key: torch.from_numpy(array) for key, array in _pair(probes[0], graph).items()}
        with self.progress.stage(f"{name}: trace"):
            written, kept, weights = export_onnx(
                module, example, graph, self.root / folder, islands if precision is Precision.FP16 else None
            )
        if precision is Precision.FP16:
            refuse_unmatched(asked_islands(name, self.kept_fp32), kept)
        inputs = dict(graph.inputs)
        if summed:
            path = self.root / folder / MODEL_FILE
            model = load_graph(path)
            add_previous(model, graph.outputs)
            save_graph(model, path)
            added = {previous(key): row.model_copy(update={"neutral": 0.0}) for key, row in graph.outputs.items()}
            inputs |= added
            probes = [*probes, with_previous(probes[0])]
        write_probes(self.root / "probes" / f"{name}.safetensors", probes)
        named = f"weights/{name}.json"
        rows = bundle_records(weights, folder, module.checkpoint_names)
        write_named_weights(self.root / named, NamedWeights(weights={**(beside or {}), **rows}))
        external = [file for file in written if not file.endswith(".onnx")]
        self.records[name] = ComponentRecord(
            kind=kind,
            onnx=f"{folder}/model.onnx",
            weights=f"{folder}/{external[0]}" if external else None,
            named_weights=named,
            precision=precision,
            islands=kept,
            inputs=inputs,
            outputs=dict(graph.outputs),
            probes=f"probes/{name}.safetensors",
            parity=_UNMEASURED,
            batch_per_picture=2 if self.guided and kind.row.guided else 1,
            largest_chunk=LARGEST_CHUNK if kind.row.exact_batch else None,
            parameters=sum(parameter.numel() for parameter in module.parameters()),
        )

    @contextmanager
    def reference(self, name: str) -> Iterator[None]:
        """The stage of a component's runs in torch; for fp16 their activations are watched."""
        with self.progress.stage(f"{name}: reference"):
            if self.precision is Precision.FP16:
                with self.ranges.watching():
                    yield
            else:
                yield

    def _precision_of(self, name: str) -> tuple[Precision, Sequence[Island]]:
        """A component's precision and what of it stays in fp32."""
        islands = islands_of(self.family, name, Precision.FP16, self.kept_fp32)
        whole = name in self.kept_fp32 or any(island.is_whole for island in islands)
        return (Precision.FP32 if whole else self.precision), islands

    def _extreme_probes(
        self, name: str, kind: ComponentKind, module: torch.nn.Module, graph: Graph, probe: Probe
    ) -> Sequence[Probe]:
        """One more run with stretched inputs, where fp16 would overflow first."""
        inputs = extreme_inputs(kind, probe.inputs, self.latent_channels)
        if inputs is None:
            return ()
        tensors = {key: torch.from_numpy(array) for key, array in inputs.items()}
        with self.reference(name):
            return (record_probe(module, probe.profile, tensors, list(graph.outputs)),)


def release(module: torch.nn.Module) -> None:
    """Frees a module's weights: torch's exporter keeps the last program that it made, and with it what was traced."""
    for tensor in (*module.parameters(), *module.buffers()):
        tensor.data = torch.empty(0, dtype=tensor.dtype)
    gc.collect()


def _pair(probe: Probe, graph: Graph) -> dict[str, Array]:
    """The probe's inputs, with at least two samples of a batch: the tracer takes a batch of one for a constant."""
    return {
        name: np.concatenate([array, array])
        if array.ndim > 1 and len(array) == 1 and graph.inputs[name].shape[0] == BATCH
        else array
        for name, array in probe.inputs.items()
    }
