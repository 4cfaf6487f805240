"""What a bundle says of its pictures."""

from latentrt.engines.bundle.records.record import Record


class PicturesRecord(Record):
    """How good the pictures of a bundle are that was made of another: PSNR in dB against those of the fp32 engines.

    ``quality`` is the mean that was asked for. ``prompts_sha256`` tells prompts, steps and seed, ``source_sha256`` the
    graphs in fp32 with their weights, ``drawn_by`` what drew: a backend's library, or ONNX Runtime with every result
    rounded, where no engine here computes in the bundle's precision.
    """

    quality: float
    source_sha256: str
    drawn_by: str
    prompts_sha256: str
    prompts: int
    steps: int
    pictures: int
    psnr_mean: float
    psnr_worst: float
    worst_prompt: str
