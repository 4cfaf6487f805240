"""Which add-on a folder or a file holds; what is none is refused by name."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from latentrt.engines.errors import RequestError
from latentrt.export.addons.addon import Addon
from latentrt.export.addons.base_model import BaseModel
from latentrt.export.addons.based_net import DIFFERENCE_MARK, LORA_MARK, control_lora, difference_net
from latentrt.export.addons.control_net import control_net
from latentrt.export.addons.image_prompt import image_prompt_adapter
from latentrt.export.addons.t2i_adapter import t2i_adapter
from latentrt.export.sources.addons.control_layout import DIFFUSERS_MARK, LDM_MARK, PREFIXES
from latentrt.export.sources.addons.files import AddonFiles, addon_files
from latentrt.export.sources.addons.image_prompt_layout import MARK as IMAGE_PROMPT_MARK
from latentrt.export.sources.addons.other_nets import check_class, check_name, check_tensors, unknown
from latentrt.export.sources.addons.t2i_layout import MARK as T2I_MARK


@dataclass(frozen=True, kw_only=True)
class _Row:
    """A kind of add-on.

    Attributes:
        classes: how diffusers' configs call it.
        mark: a pattern that one of its tensors' names has.
        read: makes it of its files, for a model.
    """

    classes: frozenset[str] = frozenset()
    mark: str
    read: Callable[[AddonFiles, BaseModel], Addon]


_PREFIX = "|".join(map(re.escape, PREFIXES))
_ROWS = (
    _Row(mark=rf"^{LORA_MARK}$", read=control_lora),
    _Row(mark=rf"^{DIFFERENCE_MARK}$", read=difference_net),
    _Row(
        classes=frozenset({"ControlNetModel", "ControlNetUnionModel"}),
        mark=rf"^(?:{_PREFIX})(?:{re.escape(LDM_MARK)}|{re.escape(DIFFUSERS_MARK)})$",
        read=control_net,
    ),
    _Row(classes=frozenset({"T2IAdapter"}), mark=T2I_MARK, read=t2i_adapter),
)
_CLASSES = frozenset(name for row in _ROWS for name in row.classes)


def addon_from_headers(
    net: str, base: BaseModel, *, variant: str | None = None, image_encoder: str | None = None
) -> Addon:
    """Finds and checks an add-on by its config and the headers of its files. torch is not needed.

    Args:
        net: a path, a hub id, or an address on the hub.
        base: the model that it is for.
        variant: which weights of a folder, such as ``fp16``.
        image_encoder: of an IP-Adapter: the folder of its image encoder, or one on the hub.

    Raises:
        RequestError: an image encoder for what takes none.
        CheckpointError: it is nowhere, something else, incomplete, or for other models.
    """
    check_name(net)
    files = addon_files(net, variant, _CLASSES)
    check_class(files, _CLASSES)
    check_tensors(files)
    names = "\n".join(files.shapes)
    if re.search(IMAGE_PROMPT_MARK, names, re.MULTILINE):
        return image_prompt_adapter(files, base, image_encoder)
    if image_encoder is not None:
        raise RequestError(
            f"got an image encoder for {net!r}, which is no IP-Adapter and takes none; leave --image-encoder out"
        )
    for row in _ROWS:
        if re.search(row.mark, names, re.MULTILINE):
            return row.read(files, base)
    raise unknown(files)
