"""Training samples for published VLAs from this package's data sets; which sample comes when depends on seed and step
alone.

A frame costs S·S·3 bytes (150 KB at 224) in a file that is mapped, not read, and 4·(7·W + 10) bytes of memory (W:
actions that it is labelled with); pixels are computed for a batch at a time, 24·S·S bytes (1.2 MB) each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from actdistill_ros.contract.action_spaces.known import convention, of_statistics
from actdistill_ros.contract.chunk import ACTION_DIM, TRANSLATION
from actdistill_ros.data.episode import DataError
from actdistill_ros.data.reader import Dataset
from actdistill_ros.distill.vla import fit
from actdistill_ros.distill.vla.colours import vary
from actdistill_ros.distill.vla.labels import Labels, check_columns
from actdistill_ros.distill.vla.speech import Speech
from actdistill_ros.policy.batches import HELD_OUT_EVERY, check_seeds, same
from actdistill_ros.policy.vla import cogact_checkpoint, layout, statistics
from actdistill_ros.policy.vla.checkpoint import VlaCheckpoint
from actdistill_ros.policy.vla.cogact import CogACT
from actdistill_ros.policy.vla.deployment import FILE, Deployment
from actdistill_ros.policy.vla.images import VisionInput, to_unit
from actdistill_ros.policy.vla.tokens import ActionBins

_ASPECT = 0.02  # share by which a frame's width over height may differ between data and robot


@dataclass(frozen=True)
class VlaBatch:
    """pixels: (B, 6, S, S) float32, as `VisionInput` makes them; ids: (B, T) prompts, BOS first, padded with 0 at the
    end; length: (B,) words of each; actions: (B, K, 7) in the teacher's own convention, normalised and clipped; words:
    (B, K·7) the action words of a token head, (B, 0) for a diffusion head."""

    pixels: Tensor
    ids: Tensor
    length: Tensor
    actions: Tensor
    words: Tensor

    def to(self, device: torch.device | str) -> VlaBatch:
        """Itself where it is there already."""
        return VlaBatch(*(x.to(device) for x in (self.pixels, self.ids, self.length, self.actions, self.words)))


class VlaSamples:
    """All frames of some data sets, split by episode into training and validation.

    training, validation: indices of frames; chunk: actions K of a sample; fit: how the recorded actions fit the
    teacher's statistics, to be told; settings: what a resumed run must have in common, as JSON takes it.
    """

    def __init__(
        self,
        sets: Sequence[Dataset],
        camera: str,
        vision: VisionInput,
        prompts: Sequence[Sequence[int]],
        speech: Speech,
    ) -> None:
        """prompts: ids of each episode's. `open` checks what is taken for granted here."""
        self._vision, self._prompts, self._speech, self.chunk = vision, prompts, speech, speech.chunk
        self._labels = Labels(sets, speech.chunk)
        self.fit = _fit(self._labels, speech)
        held_out = np.arange(len(prompts)) % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
        self.training = np.flatnonzero(~held_out[self._labels.episode])
        self.validation = np.flatnonzero(held_out[self._labels.episode])
        name, size = f"squeezed{vision.size}x{vision.crop_area:g}", (vision.size, vision.size)
        self._frames = [one.views(camera, name, size, vision.squeezed) for one in sets]
        self._offsets = np.cumsum([0] + [len(one) for one in sets])
        self._order = lru_cache(1)(self._shuffled)
        self.settings: dict = {}

    @classmethod
    def open(cls, folders: Sequence[Path], checkpoint: VlaCheckpoint, deployment: Deployment) -> VlaSamples:
        """Frames are decoded once, into `cache/` of each data set.

        Raises DataError as `check` does, or if the teacher's statistics do not fit the actions; ContractError if it is
        not known what the teacher's actions are.
        """
        sets = check(folders, deployment)
        space = convention(deployment.action_space or of_statistics(checkpoint.statistics_key).name)
        head = isinstance(checkpoint.model, CogACT)
        chunk, bins = (checkpoint.model.head.shape.chunk, None) if head else (1, checkpoint.bins)
        speech = Speech(space, checkpoint.active_statistics, chunk, bins)
        prompt = checkpoint.reader.cognition_prompt if head else checkpoint.reader.action_prompt
        known: dict[str, list[int]] = {}
        for one in sets:
            known |= {text: prompt(text) for text in set(one.instructions()) - known.keys()}
        prompts = [known[text] for one in sets for text in one.instructions()]
        found = cls(sets, deployment.camera, checkpoint.vision, prompts, speech)
        found.settings = {
            "data": [str(folder) for folder in folders],
            "frames": len(found._labels),
            "camera": deployment.camera,
            "crop_area": checkpoint.vision.crop_area,
            "action_space": space.name,
            "statistics": checkpoint.active_statistics.digest(),
            "chunk": chunk,
        }
        return found

    def train(self, seed: int, step: int, size: int, share: slice = slice(None)) -> VlaBatch:
        """The step's batch, or the rows of it that `share` names, colours varied; a function of its arguments, so that
        a resumed run sees what the first would have seen, and shares together are the batch.

        Raises DataError if there are fewer samples than a batch takes.
        """
        _check_batch(size, len(self.training))
        epoch, place = divmod(step, len(self.training) // size)
        indices = self._order(seed, epoch)[place * size : (place + 1) * size]
        unit = to_unit(self._seen(indices[share]))  # (b, 3, S, S)
        varied = vary(unit, size, np.random.default_rng([seed, 1, step]), share)
        return self._batch(indices, share, varied)

    def at(self, indices: np.ndarray) -> VlaBatch:
        """Samples as they are recorded."""
        indices = np.asarray(indices)
        return self._batch(indices, slice(None), to_unit(self._seen(indices)))

    def _shuffled(self, seed: int, epoch: int) -> np.ndarray:
        return np.random.default_rng([seed, epoch]).permutation(self.training)

    def _seen(self, indices: np.ndarray) -> Tensor:
        """(B, S, S, 3) uint8."""
        which = np.searchsorted(self._offsets, indices, side="right") - 1
        found = [self._frames[w][i - self._offsets[w]] for w, i in zip(which, indices, strict=True)]
        return torch.from_numpy(np.stack(found))

    def _batch(self, indices: np.ndarray, share: slice, unit: Tensor) -> VlaBatch:
        """unit: (b, 3, S, S) of the share; prompts are padded alike whatever the share is."""
        prompts = [self._prompts[episode] for episode in self._labels.episode[indices]]
        ids = np.zeros((len(prompts), max(map(len, prompts))), dtype=np.int64)  # (B, T)
        for row, prompt in zip(ids, prompts, strict=True):
            row[: len(prompt)] = prompt
        lengths, said = [len(prompt) for prompt in prompts][share], self._said(indices[share])
        bins = self._speech.bins
        words = np.zeros((len(said), 0), np.int64) if bins is None else bins.encode(said).reshape(len(said), -1)
        return VlaBatch(
            self._vision.normalised(unit),
            torch.from_numpy(ids[share]),
            torch.tensor(lengths),
            torch.from_numpy(said.astype(np.float32)),
            torch.from_numpy(words.astype(np.int64)),
        )

    def _said(self, indices: np.ndarray) -> np.ndarray:
        """(B, K, 7) float64."""
        labels, speech = self._labels, self._speech
        said = [speech.say(labels.at(frame), labels.start(frame)) for frame in indices]
        return np.stack(said) if said else np.empty((0, speech.chunk, ACTION_DIM))


def check(folders: Sequence[Path], told: Deployment) -> list[Dataset]:
    """The data sets, opened; all that can be known of them without the teacher's weights is checked.

    Raises DataError if one is missing, broken, given twice or for judging only, if they are unlike one another, too
    few, without sentences, or not what the teacher sees and does at run time.
    """
    if not folders:
        raise DataError("no data set is given; expected one or more folders after --data.")
    places = [Path(folder).resolve() for folder in folders]
    if twice := [folder for i, folder in enumerate(places) if folder in places[:i]]:
        raise DataError(f"{twice[0]} is given twice; held-out episodes would be trained on. Give it once.")
    sets = [Dataset.open(folder) for folder in folders]
    for name in ("fps", "robot_type"):
        same(sets, name, [one.info[name] for one in sets])
    for one in sets:
        check_seeds(one)
        check_columns(one)
        _check_meant(one, told)
        _check_seen(one, told)
    if (found := sum(len(one.episodes) for one in sets)) < HELD_OUT_EVERY:
        raise DataError(
            f"{found} episodes are too few: every {HELD_OUT_EVERY}th is held out to find thresholds with, and there is "
            f"none. Record at least {HELD_OUT_EVERY}."
        )
    return sets


def check_said(folders: Sequence[Path], teacher: Path, told: Deployment, batch: int) -> fit.Fit:
    """How the recorded actions fit the teacher, found without its weights.

    Raises what `check` does, and DataError if the labels do not reach as far as the teacher's chunks, if the teacher's
    statistics do not fit the actions, or if there are fewer samples than a batch takes; ContractError if it is not
    known what the teacher's actions are.
    """
    sets, made = check(folders, told), layout.read(teacher)
    known = statistics.read(made.folder, made.config)
    key = statistics.choose(known, told.statistics, made.folder)
    space = convention(told.action_space or of_statistics(key).name)
    head = cogact_checkpoint.is_cogact(made)
    chunk, bins = (cogact_checkpoint.chunk_of(made), None) if head else (1, ActionBins(made.vocabulary, made.bins))
    labels = Labels(sets, chunk)
    found = _fit(labels, Speech(space, known[key], chunk, bins))
    _check_batch(batch, int(np.sum(labels.episode % HELD_OUT_EVERY != HELD_OUT_EVERY - 1)))
    return found


def _check_batch(size: int, samples: int) -> None:
    if size > samples:
        raise DataError(
            f"a batch of {size} is more than the {samples} samples to train on; lower --batch, or record more."
        )


def _check_meant(data: Dataset, told: Deployment) -> None:
    """Raises DataError if an action is not as long as the teacher's, or if nobody says what it is for."""
    fps = data.info["fps"]
    if abs(fps * told.period_s - 1.0) > 1e-3:
        raise DataError(
            f"{data.folder} has {fps} frames per second, {FILE} says an action every {told.period_s:g} s "
            f"({1 / told.period_s:g} per second). Import the data at that rate (`fps` of the mapping), or correct "
            "period_s if the teacher's actions are this long."
        )
    if empty := [row.index for row in data.episodes if not row.instruction.strip()]:
        raise DataError(
            f"{data.folder}: episode {empty[0]} has no sentence; every episode needs one. Record or import it again."
        )


def _check_seen(data: Dataset, told: Deployment) -> None:
    """Raises DataError if the teacher would see something else at run time."""
    if told.camera not in data.cameras:
        raise DataError(
            f"{data.folder} has {', '.join(data.cameras) or 'no camera'}; {FILE} says that the teacher sees "
            f"{told.camera}. Name one of the data's there, or give data with {told.camera}."
        )
    (height, width), (tall, wide) = data.camera_shape(told.camera), told.frame
    if abs(width * tall / (height * wide) - 1.0) > _ASPECT:
        raise DataError(
            f"{data.folder}: frames of {told.camera} are {width}x{height}, {FILE} says {wide}x{tall}: squeezed into a "
            "square, the same thing would look different on the robot. Correct frame, or import the data with a "
            "size of that shape."
        )


def _fit(labels: Labels, speech: Speech) -> fit.Fit:
    """Raises DataError if a student would learn clipped actions, or hardly any."""
    found = fit.measure(labels, speech)
    mend = (
        "The teacher was made for another robot, rate or action space: correct statistics, action_space or period_s in "
        f"{FILE}, or fine-tune it on these data first."
    )
    if found.outside[found.worst] > fit.LARGEST:
        raise DataError(
            f"{found}. More than {100 * fit.LARGEST:.0f} % beyond the range are refused: a student would learn clipped "
            f"actions. {mend}"
        )
    if max(found.used[TRANSLATION]) < fit.SMALLEST:
        raise DataError(
            f"{found}. Less than {100 * fit.SMALLEST:.0f} % of the range are refused: the teacher would say nearly the "
            f"same for every translation. {mend}"
        )
    return found
