"""The control nets and image prompts of a call."""

from collections.abc import Sequence

from latentrt.engines.bundle.records.manifests.manifest import BundleManifest
from latentrt.engines.shapes import Profile
from latentrt.runtime.addons.addon import OpenAddons
from latentrt.runtime.addons.use import AddonUse
from latentrt.runtime.call.keywords.options import AddonKeywords
from latentrt.runtime.call.sampling import Sampling


def addons_from_keywords(
    manifest: BundleManifest,
    opened: OpenAddons,
    keywords: AddonKeywords,
    sampling: Sampling,
    profile: Profile,
    count: int,
    *,
    cropped: bool,
) -> Sequence[AddonUse]:
    """What a call adds to the U-Net, every argument checked; pictures are read, and no engine is opened.

    Args:
        manifest: the model's.
        opened: the pipeline's add-ons.
        keywords: those of the group that were set.
        sampling: whose steps their beginnings and ends are shares of.
        profile: of the pictures.
        count: N, how many pictures are drawn.
        cropped: whether they are parts of larger ones.

    Raises:
        RequestError: an argument that cannot be served.
        BundleError: no bundle of an add-on, or one that is damaged.
    """
    uses: list[AddonUse] = []
    if "control" in keywords:
        from latentrt.runtime.call.addons.controls import controls_from_keywords  # loaded by those who use it

        uses += controls_from_keywords(opened, keywords["control"], sampling, profile, count, cropped=cropped)
    if "image_prompt" in keywords:
        from latentrt.runtime.call.addons.image_prompts import image_prompts_from_keywords

        uses += image_prompts_from_keywords(manifest, opened, keywords, sampling)
    return uses
