"""What a bundle says of zeros among a component's weights."""

from enum import StrEnum

from latentrt.engines.bundle.records.record import Record


class Sparsity(StrEnum):
    """Where zeros are: of any four weights in a row that one output takes, ``2:4`` leaves two at most.

    In a row are a matrix's inputs, or a convolution's input channels at one place of its window.
    """

    TWO_OF_FOUR = "2:4"


class Criterion(StrEnum):
    """How important a weight is: ``wanda`` is |W|·‖x‖, x its input while calibrating; ``magnitude`` is |W|.

    Wanda: arXiv 2306.11695, eq. 1.
    """

    WANDA = "wanda"
    MAGNITUDE = "magnitude"


class PrunedLayerRecord(Record):
    """One layer that could be pruned.

    ``criterion`` is the one that loses less, ``error`` the share of energy that the layer's results lose then,
    ``score`` by how much that alone moves the final latents (root mean square, to first order). ``share`` is how much
    of the component's multiplications with weights are the layer's.
    """

    pruned: bool
    criterion: Criterion
    error: float
    score: float
    share: float


class SparsityPointRecord(Record):
    """What pictures are with so many layers pruned, in dB; ``share`` of the multiplications are theirs."""

    layers: int
    share: float
    psnr_mean: float
    psnr_worst: float


class SparsityRecord(Record):
    """How a component was pruned, and how good its pictures are: PSNR in dB against those before.

    Both are in the precision that was pruned. ``quality`` is the mean that was asked of pruning alone. ``layers`` are
    by the path of their torch module. ``prompts_sha256`` tells prompts, steps and seed, ``source_sha256`` the graph
    before with its weights. ``frontier`` tells all that was tried.
    """

    pattern: Sparsity
    quality: float
    source_sha256: str
    prompts_sha256: str
    prompts: int
    steps: int
    pictures: int
    psnr_mean: float
    psnr_worst: float
    worst_prompt: str
    layers: dict[str, PrunedLayerRecord]
    frontier: tuple[SparsityPointRecord, ...]

    @property
    def share(self) -> float:
        """How much of the multiplications with weights the pruned layers have."""
        return sum(layer.share for layer in self.layers.values() if layer.pruned)
