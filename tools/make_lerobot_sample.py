"""Writes test/data/lerobot_*: tiny data sets by the lerobot package itself, once per layout; no test needs it.

In an environment of its own (lerobot's pins are not this package's), from the root of the checkout:

    pip install lerobot==0.4.4 && python tools/make_lerobot_sample.py     # layout v3.0
    pip install lerobot==0.3.3 && python tools/make_lerobot_sample.py     # layout v2.1
"""

from __future__ import annotations

import json
import shutil
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
from lerobot.datasets.lerobot_dataset import CODEBASE_VERSION, LeRobotDataset

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "test"))

import foreign_parts


def features(dtype: str) -> dict:
    images = {
        f"observation.images.{name}": {"dtype": dtype, "shape": (*size, 3), "names": ["height", "width", "channels"]}
        for name, size in foreign_parts.CAMERAS.items()
    }
    return images | {
        "observation.state": {"dtype": "float32", "shape": (7,), "names": list(foreign_parts.STATE_NAMES)},
        "action": {"dtype": "float32", "shape": (7,), "names": {"motors": list(foreign_parts.ACTION_NAMES)}},
    }


def write(folder: Path, dtype: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    data = LeRobotDataset.create(
        "sample/arm", fps=foreign_parts.FPS, features=features(dtype), root=folder, robot_type="made_up_arm",
        use_videos=dtype == "video",
    )  # fmt: skip
    for number in range(len(foreign_parts.LENGTHS)):
        sample = foreign_parts.episode(number)
        for frame in range(len(sample.state)):
            values = {f"observation.images.{name}": images[frame] for name, images in sample.images.items()}
            values |= {"observation.state": sample.state[frame], "action": sample.action[frame]}
            add(data, values, sample.sentence)
        data.save_episode()
    if hasattr(data, "finalize"):
        data.finalize()
    shutil.rmtree(folder / "images", ignore_errors=True)
    (folder / "made_with.json").write_text(
        json.dumps({name: version(name) for name in ("lerobot", "datasets", "pyarrow", "av", "numpy")}, indent=1) + "\n"
    )


def keep_decoded(folder: Path) -> None:
    """What lerobot itself sees in the videos, which is less than was put in: (N, H, W, 3) uint8 per camera."""
    data = LeRobotDataset("sample/arm", root=folder, video_backend="pyav")
    frames = [data[index] for index in range(len(data))]
    images = {
        name: np.stack([np.asarray(frame[f"observation.images.{name}"]) for frame in frames])
        for name in foreign_parts.CAMERAS
    }
    decoded = {name: (each.transpose(0, 2, 3, 1) * 255).round().astype(np.uint8) for name, each in images.items()}
    np.savez_compressed(folder / "decoded_by_lerobot.npz", **decoded)


def add(data: LeRobotDataset, values: dict[str, np.ndarray], sentence: str) -> None:
    try:
        data.add_frame({**values, "task": sentence})
    except (TypeError, ValueError):
        data.add_frame(values, task=sentence)  # before 0.4


if __name__ == "__main__":
    for dtype in ("video", "image"):
        target = ROOT / "test" / "data" / f"lerobot_{CODEBASE_VERSION.replace('.', '_')}_{dtype}"
        write(target, dtype)
        if dtype == "video":
            keep_decoded(target)
        print(f"{target}: {sum(path.stat().st_size for path in target.rglob('*') if path.is_file())} bytes")
