"""A teacher and a data set as small as a distillation allows, made of random numbers."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from actdistill_ros.contract.contract import ActionSpace, CameraSpec, Contract
from actdistill_ros.data import statistics
from actdistill_ros.data.episode import Episode
from actdistill_ros.data.writer import Writer
from actdistill_ros.distill import command
from actdistill_ros.policy import checkpoint
from actdistill_ros.policy.config import PolicyConfig
from actdistill_ros.policy.model import Policy

CAMERAS, PIXELS, EPISODES, LENGTH, LAYERS = ("front", "wrist"), 16, 40, 6, 4
SENTENCES = ("lift the red block", "push the blue block left")


def parse(*words: object) -> argparse.Namespace:
    """As `actdistill distill` reads them."""
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args([str(word) for word in words])


def random_data(
    folder: Path, fps: int = 10, cameras=CAMERAS, episodes: int = EPISODES, first_seed: int = 0, steps: int = 8
) -> Path:
    """steps: how many actions a chunk has."""
    rng = np.random.default_rng(0)
    extras = {"chunk": (steps, 7), "aux": (20,)}
    sizes = {name: (PIXELS, PIXELS) for name in cameras}
    with Writer.open(folder, sizes, fps, "arx_x5", extras, episodes_per_file=EPISODES) as out:
        for seed in range(episodes):
            chunk = rng.normal(0, 0.01, (LENGTH, steps, 7)).astype(np.float32)
            chunk[..., 6] = rng.random((LENGTH, steps)) > 0.5
            out.add(
                Episode(
                    images={
                        name: rng.integers(0, 255, (LENGTH, PIXELS, PIXELS, 3), dtype=np.uint8) for name in cameras
                    },
                    state=rng.random((LENGTH, 10)).astype(np.float32),
                    action=chunk[:, 0],
                    instruction=SENTENCES[seed % 2],
                    seed=first_seed + seed,
                    extras={"chunk": chunk, "aux": rng.random((LENGTH, 20)).astype(np.float32)},
                )
            )
    return folder


def random_teacher(folder: Path, layers: int = LAYERS) -> Path:
    """Its layers change the residual stream so much that each is worth something."""
    torch.manual_seed(0)
    vocabulary = tuple(sorted({word for text in SENTENCES for word in text.split()}))
    config = PolicyConfig(
        vocabulary,
        cameras=CAMERAS,
        image_size=PIXELS,
        vision_tokens=(2, 2),
        vision_width=8,
        width=20,
        feed_forward=16,
        layers=layers,
    )
    chunks = np.random.default_rng(0).normal(0, 0.01, (50, 8, 7))
    contract = Contract(
        robot="arx_x5",
        cameras=tuple(CameraSpec(name, PIXELS, PIXELS, PIXELS) for name in CAMERAS),
        action=ActionSpace(0.1, 8, 4, 0.03, 0.2),
        statistics={"test": statistics.compute(chunks)},
        statistics_key="test",
        instructions=SENTENCES,
    )
    model = Policy(config)
    for parameter in model.decoder.layers.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    checkpoint.save(folder, model, contract)
    return folder
