"""Upscalers in files of weights: read as tensors, made into a network by spandrel, traced."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentrt.engines.bundle.checks.parity import gate, parity_of
from latentrt.engines.bundle.checks.photograph import picture_pixels
from latentrt.engines.bundle.checks.probes import Probe
from latentrt.engines.bundle.kinds import UPSCALER, ComponentKind
from latentrt.engines.bundle.records.manifests.components_manifest import DecisionRecord
from latentrt.engines.bundle.records.manifests.upscaler_manifest import PICTURE
from latentrt.engines.bundle.records.seamless import Seamless
from latentrt.engines.errors import CheckpointError, EngineError, LatentrtError, ParityError, RequestError
from latentrt.engines.precision import EIGHT_BITS, Precision
from latentrt.engines.progress import Progress
from latentrt.engines.shapes import Profile
from latentrt.export.sources.partial_model import decision
from latentrt.export.sources.weights_file import WeightsFile
from latentrt.export.tracing.versions import exporter_versions
from latentrt.export.upscalers.source import Exported, UpscalerSource, check_tiles, versions_of

if TYPE_CHECKING:
    from latentrt.export.component_exports import ComponentExports
    from latentrt.export.tracing.onnx_export import Graph
    from latentrt.export.upscalers.spandrel_networks import Network

# What trainers wrap weights in; averaged weights go before the last ones
_WRAPPERS = ("model_state_dict", "state_dict", "params_ema", "params-ema", "params", "model", "net", "generator")
_TRIED = 40  # pixels of a side, about, at which a graph for every size is compared once more
_FLAT_WRAPPERS = ("params_ema.", "params.")  # of files that were converted to safetensors as they were


@dataclass(frozen=True, kw_only=True)
class TorchUpscaler(UpscalerSource):
    """An upscaler's weights."""

    file: WeightsFile

    form = "torch"

    @cached_property
    def keys(self) -> Mapping[str, str]:
        """The tensors of its file by their names in the network."""
        return {key.removeprefix(self.wrapper): key for key in self.file.shapes if key.startswith(self.wrapper)}

    @cached_property
    def wrapper(self) -> str:
        """What the names in the file begin with."""
        tree = self.file.file.tree
        for name in _WRAPPERS:
            if isinstance(tree, dict) and isinstance(tree.get(name), dict):
                return "" if name == "state_dict" else f"{name}."
        return next((start for start in _FLAT_WRAPPERS if any(key.startswith(start) for key in self.file.shapes)), "")

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Of all tensors, by their names in the network."""
        return {name: self.file.shapes[key] for name, key in self.keys.items()}

    @property
    def parameters(self) -> int:
        """How many weights it has."""
        return self.file.parameters(self.keys.values())

    @property
    def unread(self) -> Mapping[str, tuple[str, ...]]:
        """What stands beside the weights that are read, such as the last ones beside averaged ones."""
        read = set(self.keys.values())
        others = tuple(key for key in self.file.shapes if key not in read)
        return {self.file.path.name: others} if others else {}

    @property
    def decisions(self) -> Mapping[str, DecisionRecord]:
        """What its header tells."""
        told = {"kind": decision("upscaler", "its tensors' names")}
        if self.wrapper:
            told["weights"] = decision(self.wrapper.rstrip("."), "the file's name for them")
        return told

    @property
    def versions(self) -> Mapping[str, str]:
        """The exporter's, and spandrel's."""
        return {**exporter_versions(), **versions_of("spandrel")}

    def precision_for(self, requested: Precision | None) -> Precision:
        """fp32, or what was asked for."""
        if requested in EIGHT_BITS:
            raise RequestError(
                f"got precision {requested} for an upscaler, which is built in fp32, fp16 or bf16; leave it out, or "
                "choose one of these"
            )
        return requested or Precision.FP32

    def export(
        self,
        root: Path,
        precision: Precision,
        kept_fp32: Sequence[str],
        profiles: Sequence[Profile],
        progress: Progress,
    ) -> Exported:
        """Makes the network, runs it in torch, and traces it."""
        import torch

        from latentrt.export.component_exports import ComponentExports, release
        from latentrt.export.modules.upscaler import UpscalerModule, fixed_upscaler_graph, upscaler_graph
        from latentrt.export.quiet import quiet
        from latentrt.export.tracing.probes import record_probe
        from latentrt.export.upscalers.spandrel_networks import network_from_tensors

        with progress.stage(f"{UPSCALER}: load"):
            network = network_from_tensors(self.source, self._tensors())
            module = UpscalerModule(network.module)
        check_tiles(profiles, network.multiple, network.smallest)
        run = ComponentExports(
            family=network.architecture,
            guided=False,
            latent_channels=0,
            root=root,
            precision=precision,
            profiles=profiles,
            progress=progress,
            seamless=Seamless.NONE,
            kept_fp32=kept_fp32,
        )
        told = {
            "architecture": decision(network.architecture, network.detail or "its tensors' names"),
            "scale": decision(f"x{network.scale}", "its tensors' shapes"),
        }
        graph = upscaler_graph(network.multiple)
        with quiet():
            with run.reference(UPSCALER):
                probes = [
                    record_probe(
                        module, profile, {PICTURE: torch.from_numpy(picture_pixels(profile))}, list(graph.outputs)
                    )
                    for profile in profiles
                ]
            failed = self._fault_of_dynamic(run, module, graph, probes, network)
            if failed is not None:
                if len(profiles) > 1:
                    raise self._untraced(network.architecture, "tiles of more than one size", failed)
                graph = fixed_upscaler_graph(profiles[0], network.scale)
                try:
                    run.component(UPSCALER, ComponentKind.UPSCALER, module, graph, probes)
                except LatentrtError:
                    raise
                except Exception as error:  # torch's tracer has many
                    raise self._untraced(network.architecture, f"tiles of {profiles[0]}", _line(error)) from error
                told["tiles"] = decision(f"{profiles[0]} alone", "its graph cannot be traced for every size")
        release(module)
        return Exported(
            architecture=network.architecture,
            scale=network.scale,
            multiple=network.multiple,
            smallest=network.smallest,
            component=run.records[UPSCALER],
            told=told,
        )

    def _fault_of_dynamic(
        self, run: "ComponentExports", module: Any, graph: "Graph", probes: Sequence[Probe], network: "Network"
    ) -> str | None:
        """Traces the network for every size, and compares the graph with it at another size than that of its probes.

        Some compute masks for the size that they are traced with, which no tracer notices.

        Returns:
            Why that cannot be; None where it can.
        """
        import torch

        from latentrt.export.upscalers.onnx_graph import answer

        try:
            run.component(UPSCALER, ComponentKind.UPSCALER, module, graph, probes)
        except LatentrtError:
            raise
        except Exception as error:  # torch's tracer has many: what it cannot follow for every size, or at all
            return _line(error)
        record = run.records[UPSCALER]
        for picture in map(picture_pixels, other_sizes(network.multiple, network.smallest)):
            with torch.inference_mode():
                expected = module(torch.from_numpy(picture))[0].numpy()
            try:
                found = parity_of(answer(run.root / record.onnx, picture), expected)
                gate(UPSCALER, record.kind, found, record.precision)
            except (EngineError, ParityError) as error:
                return str(error)
        return None

    def _untraced(self, architecture: str, what: str, reason: str) -> CheckpointError:
        return CheckpointError(
            f"{self.source!r}, a network of {architecture}, cannot be traced for {what} ({reason}), expected a network "
            "that can; give one --profile, or choose another upscaler"
        )

    def _tensors(self) -> dict[str, Any]:
        """All tensors as torch's, in fp32.

        Raises:
            CheckpointError: some hold NaN or infinity, or numbers of a type that is not read.
        """
        broken = [key for key in self.keys.values() if not self.file.is_finite(key)]
        if broken:
            raise CheckpointError(
                f"{self.source!r} cannot be built: it has NaN or infinite numbers in {', '.join(broken[:3])}; choose "
                "another copy of it"
            )
        tensors = {name: self.file.tensor(key) for name, key in self.keys.items()}
        return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def other_sizes(multiple: int, smallest: int) -> tuple[Profile, Profile]:
    """Two small sizes that a network takes, wide and high."""
    least = -(-max(smallest, _TRIED) // multiple)
    short, long = least * multiple, (least + 1) * multiple
    return Profile(width=long, height=short), Profile(width=short, height=long + multiple)


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
