"""How the command line spells the keywords of videos; drawing itself loads none of it."""

from collections.abc import Mapping

from latentrt.runtime.call.keywords.flags import FLAGS, Flag, Form

VIDEO_FLAGS: Mapping[str, Flag] = {
    "num_frames": Flag("--frames", "Frames of a video; default: those of the profile of its size.", Form.WHOLE_NUMBER),
    "fps": Flag("--fps", "Frames per second, which the model is told; default: 7.", Form.WHOLE_NUMBER),
    "motion_bucket_id": Flag("--motion-bucket", "How much moves, 0 to 255; default: 127.", Form.WHOLE_NUMBER),
    "noise_aug_strength": Flag(
        "--noise-aug",
        "Noise that the picture gets: more moves more, and looks less like the picture; default: 0.02.",
        Form.NUMBER,
    ),
    "min_guidance_scale": Flag("--min-guidance", "Guidance scale of the first frame; default: 1.", Form.NUMBER),
    "max_guidance_scale": Flag(
        "--max-guidance", "Guidance scale of the last frame; at most 1: none; default: the bundle's.", Form.NUMBER
    ),
    "decode_chunk_size": Flag(
        "--decode-chunk",
        "Frames to decode at once; fewer take less memory; default: all of a video.",
        Form.WHOLE_NUMBER,
    ),
    "num_inference_steps": FLAGS["num_inference_steps"],
    "sigmas": Flag("--sigmas", "Noise levels to visit, separated by commas, down to 0.", Form.NUMBERS),
}
"""The keywords that ``latentrt img2vid`` takes as they are; others, such as size and seed, it makes of its own
options."""
