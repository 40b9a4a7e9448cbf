"""Names and columns of the LeRobotDataset v3 layout."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from actdistill_ros.data.episode import Extra
from actdistill_ros.data.video import CODEC, PIXELS

VERSION = "v3.0"
FILES_PER_CHUNK = 1000
STATE, ACTION, IMAGES = "observation.state", "action", "observation.images."
INFO, STATS, TASKS = "meta/info.json", "meta/stats.json", "meta/tasks.parquet"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
COUNTERS = ("frame_index", "episode_index", "index", "task_index")


def data_file(folder: Path, number: int) -> Path:
    chunk, file = divmod(number, FILES_PER_CHUNK)
    return folder / DATA_PATH.format(chunk_index=chunk, file_index=file)


def video_file(folder: Path, camera: str, number: int) -> Path:
    chunk, file = divmod(number, FILES_PER_CHUNK)
    return folder / VIDEO_PATH.format(video_key=IMAGES + camera, chunk_index=chunk, file_index=file)


def file_numbers(folder: Path) -> list[int]:
    """Numbers of the finished data files, in the order that readers concatenate them."""
    paths = sorted((folder / "data").glob("chunk-*/file-*.parquet"))
    return [int(path.parent.name[6:]) * FILES_PER_CHUNK + int(path.stem[5:]) for path in paths]


def features(
    cameras: Mapping[str, tuple[int, int]],
    fps: int,
    extras: Mapping[str, Extra],
    state_names: Sequence[str],
    action_names: Sequence[str],
) -> dict:
    """The `features` entry of info.json."""
    columns = {
        STATE: _feature("float32", [len(state_names)], list(state_names)),
        ACTION: _feature("float32", [len(action_names)], list(action_names)),
    }
    for name, (height, width) in cameras.items():
        columns[IMAGES + name] = _feature("video", [height, width, 3], ["height", "width", "channels"]) | {
            "info": {
                "video.height": height, "video.width": width, "video.channels": 3, "video.fps": fps,
                "video.codec": CODEC, "video.pix_fmt": PIXELS, "video.is_depth_map": False, "has_audio": False,
            }
        }  # fmt: skip
    columns |= {name: _feature(extra.dtype, list(extra.shape) or [1], None) for name, extra in extras.items()}
    columns["timestamp"] = _feature("float32", [1], None)
    return columns | {name: _feature("int64", [1], None) for name in COUNTERS}


def _feature(dtype: str, shape: list[int], names: list[str] | None) -> dict:
    return {"dtype": dtype, "shape": shape, "names": names}


def video_keys(all_features: Mapping[str, dict]) -> list[str]:
    return [name for name, feature in all_features.items() if feature["dtype"] == "video"]


def to_column(values: np.ndarray) -> pa.Array:
    """(N,), (N, k) or (N, k, m) as an Arrow column: numbers, fixed-size lists, or lists of lists."""
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    if values.ndim == 1:
        return flat
    if values.ndim == 2:
        return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
    rows, middle, inner = values.shape
    rows_inner = pa.ListArray.from_arrays(pa.array(np.arange(rows * middle + 1, dtype=np.int32) * inner), flat)
    return pa.ListArray.from_arrays(pa.array(np.arange(rows + 1, dtype=np.int32) * middle), rows_inner)


def from_column(column: pa.ChunkedArray, feature: Mapping) -> np.ndarray:
    """Inverse of `to_column`; a feature of shape [1] comes back as (N,)."""
    shape = tuple(feature["shape"])
    parts = [np.empty(0, dtype=feature["dtype"])]
    for part in column.chunks:
        while pa.types.is_nested(part.type):
            part = part.flatten()
        parts.append(part.to_numpy(zero_copy_only=False))
    flat = np.concatenate(parts[1:] or parts).astype(feature["dtype"], copy=False)
    return flat if shape == (1,) else flat.reshape(len(column), *shape)


def tasks_table(tasks: Iterable[str]) -> pa.Table:
    """Instruction and number of each task; the instruction is the index for readers that use pandas."""
    names = list(tasks)
    table = pa.table({"task_index": pa.array(range(len(names)), pa.int64()), "task": pa.array(names, pa.string())})
    return table.replace_schema_metadata({b"pandas": _PANDAS_INDEX.encode()})


_PANDAS_INDEX = (
    '{"index_columns": ["task"], "column_indexes": [], "columns": ['
    '{"name": "task_index", "field_name": "task_index", "pandas_type": "int64", "numpy_type": "int64",'
    ' "metadata": null},'
    '{"name": "task", "field_name": "task", "pandas_type": "unicode", "numpy_type": "object", "metadata": null}],'
    '"creator": {"library": "pyarrow", "version": "1"}, "pandas_version": "2.0.0"}'
)
