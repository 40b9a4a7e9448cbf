"""Writes test/data/rlds: a tiny data set by tensorflow-datasets itself, once. Not needed to run the tests.

In an environment of its own, from the root of the checkout:

    pip install tensorflow-cpu tensorflow-datasets && python tools/make_rlds_sample.py
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "test"))

import foreign_parts


class MadeUpArm(tfds.core.GeneratorBasedBuilder):
    """Episodes of steps, as Open X-Embodiment lays them out: one camera as JPEG, one as PNG."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        formats = dict(zip(foreign_parts.CAMERAS, ("jpeg", "png"), strict=True))
        images = {
            name: tfds.features.Image(shape=(*size, 3), encoding_format=formats[name])
            for name, size in foreign_parts.CAMERAS.items()
        }
        steps = {
            "observation": {**images, "state": tfds.features.Tensor(shape=(7,), dtype=np.float32)},
            "action": tfds.features.Tensor(shape=(7,), dtype=np.float32),
            "action_packed": tfds.features.Tensor(shape=(7,), dtype=np.float64, encoding="zlib"),
            "language_instruction": tfds.features.Text(),
            "is_first": np.bool_,
            "is_last": np.bool_,
            "step_number": np.int32,
        }
        features = {
            "steps": tfds.features.Dataset(steps),
            "episode_metadata": {"file_path": tfds.features.Text(), "number": np.int64},
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for number in range(len(foreign_parts.LENGTHS)):
            sample = foreign_parts.episode(number)
            last = len(sample.state) - 1
            steps = [
                {
                    "observation": {
                        **{name: images[i] for name, images in sample.images.items()},
                        "state": sample.state[i],
                    },
                    "action": sample.action[i],
                    "action_packed": sample.action[i].astype(np.float64),
                    "language_instruction": sample.sentence,
                    "is_first": i == 0,
                    "is_last": i == last,
                    "step_number": i,
                }
                for i in range(last + 1)
            ]
            yield number, {"steps": steps, "episode_metadata": {"file_path": f"{number}.npy", "number": number}}


if __name__ == "__main__":
    target = ROOT / "test" / "data" / "rlds"
    with tempfile.TemporaryDirectory() as folder:
        builder = MadeUpArm(data_dir=folder)
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(num_shards=2, try_download_gcs=False), file_format="tfrecord"
        )
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(builder.data_dir, target)
    versions = {name: version(name) for name in ("tensorflow-cpu", "tensorflow-datasets", "protobuf", "numpy")}
    (target / "made_with.json").write_text(json.dumps(versions, indent=1) + "\n")
    print(f"{target}: {sum(path.stat().st_size for path in target.rglob('*') if path.is_file())} bytes")
