"""Audio of any data set as encoded files, without torchcodec, which `datasets` needs to encode audio."""

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import soundfile
from datasets import Audio, Value

from modeling_sim.data.audio import file_path
from modeling_sim.text import utf8_name

_SCALARS = ("string", "large_string", "string_view", "binary", "large_binary", "binary_view")


_PARTS = {"bytes", "path", "array"}


def holds_audio(feature: Any) -> bool:
    """Whether a column of this type can hold audio in a form that `AudioFile` accepts."""
    if isinstance(feature, Mapping):
        return bool(_PARTS & set(feature)) and ("array" not in feature or "sampling_rate" in feature)
    return isinstance(feature, Audio) or (isinstance(feature, Value) and feature.dtype in _SCALARS)


class AudioFile(Audio):
    """`Audio(decode=False)` that accepts audio in every form that data sets have, without torchcodec.

    A value may be a path, the bytes of a file, a mapping with `path`, `bytes` or both, or a mapping with `array`,
    samples `(samples,)`, `(samples, channels)` or `(channels, samples)`, whose shorter axis is that of the channels,
    and `sampling_rate`. Samples become a WAV file with the same values:
    32-bit floats, or 16-bit integers. A file in an archive or on the Hub (`zip://`, `hf://`) is read into `bytes`.

    Args:
        root: Folder of relative paths, if the file exists there.
    """

    def __init__(self, root: str | Path | None = None) -> None:
        super().__init__(decode=False)
        self.root = root

    def encode_example(self, value: Any) -> dict[str, Any]:
        """Converts a value to `{"bytes", "path"}`."""
        if isinstance(value, (str, os.PathLike)):
            value = {"path": os.fspath(value)}
        elif isinstance(value, (bytes, bytearray)):
            value = {"bytes": bytes(value)}
        content, path = value.get("bytes"), value.get("path")
        if value.get("array") is not None:
            content = _wav(value["array"], value.get("sampling_rate"))
        if content is not None or not path:
            return {"bytes": content, "path": path}
        if "://" in path:
            return _read_remote(path)
        if self.root is not None and os.path.isfile(file_path(Path(self.root) / path)):  # noqa: PTH113 - of bytes
            path = utf8_name(Path(self.root) / path)
        return {"bytes": None, "path": path}

    def cast_storage(self, storage: pa.Array) -> pa.StructArray:
        """Converts an Arrow column; nulls stay."""
        if pa.types.is_struct(storage.type) and {"bytes", "path"} == {field.name for field in storage.type}:
            return super().cast_storage(storage)
        values = (None if value is None else self.encode_example(value) for value in storage.to_pylist())
        return pa.array(values, type=self.pa_type)


def _wav(array: Any, sampling_rate: Any) -> bytes:
    """Samples as a WAV file; empty bytes, which the scan reports, if there is no such file."""
    file, limits = io.BytesIO(), np.iinfo(np.int16)
    try:
        samples = np.asarray(array)
        if samples.ndim not in (1, 2) or samples.dtype.kind not in "iuf":
            return b""
        if samples.ndim == 2 and len(samples) < samples.shape[1]:
            samples = samples.T
        low, high = samples.min(initial=0), samples.max(initial=0)
        is_int16 = samples.dtype.kind in "iu" and limits.min <= low and high <= limits.max
        samples = samples.astype(np.int16 if is_int16 else np.float32)
        soundfile.write(file, samples, int(sampling_rate), format="WAV", subtype="PCM_16" if is_int16 else "FLOAT")
    except (OverflowError, TypeError, ValueError, soundfile.LibsndfileError):
        return b""
    return file.getvalue()


def _read_remote(path: str) -> dict[str, Any]:
    name = path.partition("::")[0]
    try:
        with fsspec.open(path, "rb") as file:
            return {"bytes": file.read(), "path": name}
    except FileNotFoundError:  # the scan reports it
        return {"bytes": None, "path": name}
