"""Teachers of random weights, OpenVLA's and CogACT's, and a data set that they could be made for; as small as may
be."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from vla_parts import TINY, maker, tool

from actdistill_ros.data.episode import Episode
from actdistill_ros.data.writer import Writer

TOLD = {"camera": "front", "frame": [48, 64], "period_s": 0.2, "dtype": "float32", "statistics": "bridge_orig"}
EPISODES, LENGTH, LAYERS = 40, 2, 4
SENTENCES = ("Lift the red block", "push the blue block to the left")
tool("reference_openvla")
tool("reference_cogact")


def teacher(folder: Path, kind: str, **told) -> Path:
    """kind: `openvla` or `cogact`; told: what its deployment says besides `TOLD`."""
    if kind == "openvla":
        maker.write_folder(folder, TINY)
    else:
        tool("reference_cogact_vla").write_checkpoint(folder)
    (folder / "deployment.json").write_text(json.dumps(TOLD | told))
    return folder


def data(folder: Path, fps: int = 5, camera: str = "front", episodes: int = EPISODES) -> Path:
    """Small steps, each sentence with a direction of its own, so that there is something to learn."""
    rng = np.random.default_rng(0)
    with Writer.open(folder, {camera: (48, 64)}, fps, "arx_x5", {"chunk": (8, 7)}, episodes_per_file=EPISODES) as out:
        for seed in range(episodes):
            chunk = rng.normal(0, 0.002, (LENGTH, 8, 7)).astype(np.float32)
            chunk[..., 0] += 0.02 if seed % 2 else -0.02
            chunk[..., 6] = rng.random((LENGTH, 8)) > 0.5
            images = {camera: rng.integers(0, 255, (LENGTH, 48, 64, 3), dtype=np.uint8)}
            state = rng.random((LENGTH, 10)).astype(np.float32)
            out.add(Episode(images, state, chunk[:, 0], SENTENCES[seed % 2], seed, {"chunk": chunk}))
    return folder
