"""Files that hold no tensors, refused by name: from their first bytes, their neighbours, and last of all the suffix."""

import zipfile
from pathlib import Path

from latentrt.engines.errors import CheckpointError
from latentrt.engines.tensors.tensor_file import is_safetensors
from latentrt.export.sources.foreign.documents import document_kind, text_kind

_PICTURE = "a picture"
_SOUND = "a sound or a video"
_ARCHIVE, _UNPACK = "an archive", "unpack it, and give what is in it"
_PROGRAM = "a program"
_EXPORTED = "give the checkpoint that it was exported from"
_GGUF = "a GGUF file (weights quantized for llama.cpp or stable-diffusion.cpp)"
_PLAN = "a TensorRT plan", "give the model that it was built from"
_POINTER = "a Git LFS pointer instead of the model", "fetch the model with git lfs pull"
_AS_SAFETENSORS = "take the model as safetensors in fp32, fp16 or bf16"
_FLAX = "weights of Flax (msgpack)", "take the model's weights for PyTorch, as safetensors"
_KERAS = "a model of Keras or TensorFlow", "take the model's weights for PyTorch, as safetensors"
COREML = "a Core ML model", _EXPORTED
_OPENVINO = "an OpenVINO model (IR)", _EXPORTED
ONNX = "an ONNX model", _EXPORTED
# First bytes in lower case, what they stand for, and what to do about it
_MAGICS: tuple[tuple[bytes, str, str], ...] = (
    (b"gguf", _GGUF, _AS_SAFETENSORS),
    (b"ggml", "a GGML file (weights quantized for llama.cpp)", _AS_SAFETENSORS),
    (b"lmgg", "a GGML file (weights quantized for llama.cpp)", _AS_SAFETENSORS),
    (b"version https://git-lfs", *_POINTER),
    (b"# xet version", "a pointer of the hub instead of the model", "download the model itself"),
    (b"\x89png", _PICTURE, ""),
    (b"\xff\xd8\xff", _PICTURE, ""),
    (b"gif8", _PICTURE, ""),
    (b"ii*\x00", _PICTURE, ""),
    (b"8bps", _PICTURE, ""),
    (b"rar!", _ARCHIVE, _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", _ARCHIVE, _UNPACK),
    (b"\x1f\x8b", _ARCHIVE, _UNPACK),
    (b"\xfd7zxz", _ARCHIVE, _UNPACK),
    (b"bzh", _ARCHIVE, _UNPACK),
    (b"\x28\xb5\x2f\xfd", _ARCHIVE, _UNPACK),
    (b"\x04\x22\x4d\x18", _ARCHIVE, _UNPACK),
    (b"%pdf", "a PDF", ""),
    (b"\x93numpy", "a NumPy array", ""),
    (b"\x89hdf", *_KERAS),
    (b"ftrt", *_PLAN),
    (b"ptrt", *_PLAN),
    (b"id3", _SOUND, ""),
    (b"flac", _SOUND, ""),
    (b"oggs", _SOUND, ""),
    (b"sqlite format 3", "a database", ""),
    (b"\x7felf", _PROGRAM, ""),
    (b"mz\x90\x00", _PROGRAM, ""),
    (b"\x00\x05\x16\x07", "what macOS keeps beside a file", "give the file whose name lacks the ._ in front"),
)
# Where content says nothing more
_SUFFIXES = {
    ".engine": _PLAN,
    ".plan": _PLAN,
    ".trt": _PLAN,
    ".onnx": ONNX,
    ".onnx_data": ("the weights of an ONNX model", _EXPORTED),
    ".pb": _KERAS,
    ".h5": _KERAS,
    ".msgpack": _FLAX,
    ".mlmodel": COREML,
    ".gguf": (_GGUF, _AS_SAFETENSORS),
    ".part": ("an unfinished download", "download it again"),
    ".crdownload": ("an unfinished download", "download it again"),
    ".aria2": ("the state of an unfinished download", "finish the download"),
}
_AFTER_IR_VERSION = b"\x12\x1a\x22\x28\x32\x3a\x42\x72"  # tags of onnx.ModelProto's other fields
_PICKLE_PROTOCOLS = b"\x00\x01\x02\x03\x04\x05"
_GIVE = "give a checkpoint in .safetensors or .ckpt form"


def check_kind(path: Path) -> None:
    """Refuses a file that holds no tensors, by name.

    Raises:
        CheckpointError: it is empty, cannot be read, or holds something else.
    """
    if path.exists() and not path.is_file():  # a pipe would never end
        raise refusal(path, "no file")
    head = _head(path)
    if head.startswith(b"PK\x03\x04"):
        _check_zip(path)
        return
    if is_safetensors(head) or _begins_a_pickle(head):
        return
    raise refusal(path, *_kind(path, head))


def kind_of(path: Path) -> tuple[str, str]:
    """What a file is by its first bytes, its neighbours and its suffix, and what to do about it.

    Raises:
        CheckpointError: it cannot be read.
    """
    return _kind(path, _head(path))


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(4096)
    except OSError as error:
        raise CheckpointError(f"{str(path)!r} cannot be read ({error.strerror or error}); check the path") from error


def refusal(path: Path, kind: str, advice: str = "") -> CheckpointError:
    """That a path holds something else; without advice, which files are read."""
    return CheckpointError(
        f"got {str(path)!r}, {kind}, expected the weights of a Stable Diffusion model; {advice or _GIVE}"
    )


def _kind(path: Path, head: bytes) -> tuple[str, str]:
    """What a file is that holds no tensors, and what to do about it."""
    if not head:
        return "an empty file", "download it again"
    bare, suffix = head.lower().lstrip(), path.suffix.lower()
    for magic, kind, advice in _MAGICS:
        if bare.startswith(magic):
            return kind, advice
    if head.startswith(b"BM") and head[6:10] == bytes(4):
        return _PICTURE, ""
    if head.startswith(b"RIFF"):
        return (_SOUND if head[8:12] in (b"WAVE", b"AVI ") else _PICTURE), ""
    if head[4:8] == b"ftyp":
        return (_PICTURE if head[8:12] in (b"avif", b"heic", b"mif1") else _SOUND), ""
    if head[4:8] == b"TFL3":
        return _KERAS
    if head[257:262] == b"ustar":
        return _ARCHIVE, _UNPACK
    if head[0] == 8 and len(head) > 2 and suffix == ".mlmodel":
        return COREML
    # A protobuf whose first field is the IR version
    if head[0] == 8 and len(head) > 2 and (suffix == ".onnx" or (head[1] < 32 and head[2] in _AFTER_IR_VERSION)):
        return ONNX
    if _begins_msgpack(head):
        return _FLAX
    if not head.strip(b"\0"):
        return "a file that begins with zeros, as one whose download was not finished", "download it again"
    document = document_kind(path, head)
    if document is not None:
        return document
    if suffix == ".bin" and path.with_suffix(".xml").is_file():
        return "the weights of an OpenVINO model (IR)", _EXPORTED
    if path.name.endswith((".onnx.data", "weights.pb")):
        return _SUFFIXES[".onnx_data"]
    if suffix in _SUFFIXES:
        return _SUFFIXES[suffix]
    return text_kind(path, head) or ("no file of tensors", "")


def _begins_a_pickle(head: bytes) -> bool:
    return head[:1] == b"\x80" and head[1:2] != b"" and head[1] in _PICKLE_PROTOCOLS


def _begins_msgpack(head: bytes) -> bool:
    """A map (of up to 15, 2¹⁶ or 2³² keys), and a text as its first key."""
    length = {0xDE: 3, 0xDF: 5}.get(head[0], 1 if 0x80 < head[0] <= 0x8F else 0)
    key = head[length : length + 1]
    return bool(length and key) and (0xA0 < key[0] <= 0xBF or key[0] in (0xD9, 0xDA))


def _check_zip(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise CheckpointError(
            f"{str(path)!r} is damaged or cut short ({error}), expected the whole archive that torch.save writes; "
            "download it again"
        ) from error
    ends = {name.rpartition("/")[2] for name in names}
    if "constants.pkl" in ends or any("/code/" in f"/{name}" for name in names):
        raise refusal(path, "a TorchScript program (torch.jit)", _EXPORTED)
    if "data.pkl" in ends:
        return
    if "archive_format" in ends or any("models/model.json" in name for name in names):
        raise refusal(path, "a program of torch.export", _EXPORTED)
    if "model_index.json" in ends:
        kind = "a DDUF file" if path.suffix.lower() == ".dduf" else "a zip archive"
        raise refusal(path, f"{kind} that holds a diffusers folder", "unpack it, and give the folder")
    if "model.weights.h5" in ends:
        raise refusal(path, *_KERAS)
    if any(name.endswith(".npy") for name in names):
        raise refusal(path, "an archive of NumPy arrays")
    raise refusal(path, "a zip archive", _UNPACK)
