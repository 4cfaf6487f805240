"""Whether a bundle is what an export would write again, as far as models and add-ons are alike."""

from collections.abc import Mapping
from importlib.metadata import version

from latentrt.engines.bundle.records.component import FileRecord
from latentrt.engines.bundle.records.manifests.components_manifest import ComponentsManifest, DecisionRecord
from latentrt.engines.precision import Precision
from latentrt.engines.shapes import Profile


def same_export(
    manifest: ComponentsManifest,
    *,
    versions: Mapping[str, str],
    precision: Precision,
    kept_fp32: tuple[str, ...],
    profiles: tuple[Profile, ...],
    decisions: Mapping[str, DecisionRecord],
    files: Mapping[str, FileRecord],
) -> bool:
    """Whether it was written by this latentrt and this exporter, of the same files, for the same request.

    What was decided counts, and not the reasons for it.
    """
    return (
        manifest.latentrt == version("latentrt")
        and manifest.exporter == versions
        and manifest.profiles == profiles
        and manifest.precision == precision
        and manifest.kept_fp32 == kept_fp32
        and _values(manifest.source.decisions) == _values(decisions)
        and manifest.source.files == files
    )


def _values(decisions: Mapping[str, DecisionRecord]) -> dict[str, str]:
    return {name: decision.value for name, decision in decisions.items()}
