"""Files that hold no tensors, refused by name from their first bytes."""

import zipfile
from pathlib import Path

from latentrt.engines.errors import CheckpointError

_PICTURE = "a picture"
_ARCHIVE = "an archive"
# First bytes, what they stand for, and what to do about it
_MAGICS: tuple[tuple[bytes, str, str], ...] = (
    (b"GGUF", "a GGUF file (a quantized model of llama.cpp)", "take the model as safetensors"),
    (b"ggml", "a GGML file (a quantized model of llama.cpp)", "take the model as safetensors"),
    (b"lmgg", "a GGML file (a quantized model of llama.cpp)", "take the model as safetensors"),
    (b"version https://git-lfs", "a Git LFS pointer instead of the model", "fetch the model with git lfs pull"),
    (b"<!doctype", "a web page instead of the model", "download it again from a link to the file itself"),
    (b"<html", "a web page instead of the model", "download it again from a link to the file itself"),
    (b"\x89png", _PICTURE, ""),
    (b"\xff\xd8\xff", _PICTURE, ""),
    (b"gif8", _PICTURE, ""),
    (b"rar!", _ARCHIVE, "unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", _ARCHIVE, "unpack it first"),
    (b"\x1f\x8b", _ARCHIVE, "unpack it first"),
    (b"\xfd7zxz", _ARCHIVE, "unpack it first"),
    (b"bzh", _ARCHIVE, "unpack it first"),
    (b"\x28\xb5\x2f\xfd", _ARCHIVE, "unpack it first"),
    (b"%pdf", "a PDF", ""),
    (b"\x93numpy", "a NumPy array", ""),
    (b"\x89hdf", "an HDF5 file (Keras)", ""),
    (b"ftrt", "a TensorRT plan", "give the model that it was built from"),
    (b"ptrt", "a TensorRT plan", "give the model that it was built from"),
    (b"id3", "a sound file", ""),
    (b"flac", "a sound file", ""),
    (b"oggs", "a sound file", ""),
    (b"{", "a JSON file", "give the weights beside it"),
)
_GIVE = "give a checkpoint in .safetensors or .ckpt form"


def check_kind(path: Path) -> None:
    """Refuses a file that holds no tensors, by name.

    Raises:
        CheckpointError: it is empty, cannot be read, or holds something else.
    """
    if path.exists() and not path.is_file():  # a pipe would never end
        raise _refusal(path, "no file")
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise CheckpointError(f"{str(path)!r} cannot be read ({error.strerror or error}); check the path") from error
    if not head:
        raise _refusal(path, "an empty file", "download it again")
    if head.startswith(b"PK\x03\x04"):
        _check_zip(path)
        return
    if head[8:9] == b"{":
        return  # safetensors
    for magic, kind, advice in _MAGICS:
        if head.lower().lstrip().startswith(magic.lower()):
            raise _refusal(path, kind, advice)
    if head.startswith(b"BM") and head[6:10] == bytes(4):
        raise _refusal(path, _PICTURE)
    if head.startswith(b"RIFF"):
        raise _refusal(path, "a sound file" if head[8:12] == b"WAVE" else _PICTURE)
    if head[257:262] == b"ustar":
        raise _refusal(path, _ARCHIVE, "unpack it first")
    # A protobuf whose first field is the IR version; exporters name themselves next
    if head[:1] == b"\x08" and (path.suffix.lower() == ".onnx" or b"pytorch" in head or b"onnx" in head):
        raise _refusal(path, "an ONNX model", "give the checkpoint that it was exported from")
    if head.startswith(b"\x80"):
        return  # a pickle
    if not head.strip(b"\0"):
        raise _refusal(path, "a file that begins with zeros, as one whose download was not finished", "download it")
    text = "a text" if all(byte >= 32 or byte in b"\t\r\n\f" for byte in head) else "no file of tensors"
    raise _refusal(path, text)


def _check_zip(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise CheckpointError(
            f"{str(path)!r} is damaged or cut short ({error}), expected the whole archive that torch.save writes; "
            "download it again"
        ) from error
    if any(name.rpartition("/")[2] == "data.pkl" for name in names):
        return
    if any(name.endswith(".npy") for name in names):
        raise _refusal(path, "an archive of NumPy arrays")
    raise _refusal(path, "a zip archive", "unpack it first")


def _refusal(path: Path, kind: str, advice: str = "") -> CheckpointError:
    return CheckpointError(
        f"got {str(path)!r}, {kind}, expected the weights of a Stable Diffusion model; {advice or _GIVE}"
    )
