"""A distilled VLA's folder: its teacher's files with what was trained in their place, and a router beside them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from actdistill_ros.contract.contract import ContractError
from actdistill_ros.policy.budgets import LOWEST_BUDGET
from actdistill_ros.policy.vla import checkpoint, cogact_checkpoint, layout, weights
from actdistill_ros.policy.vla.layout import CONFIG, DEPLOYMENT, ROUTER, ROUTER_CONFIG, Layout
from actdistill_ros.policy.vla.openvla import PrismaticShape
from actdistill_ros.policy.vla.router import VlaRouter
from actdistill_ros.policy.vla.sources import INDEX, Stored, TensorSource, row_slices
from actdistill_ros.policy.vla.tensor_files import write_prismatic, write_safetensors, write_shards

FORMAT = 1
_CARRIED = (
    "*.json",
    "*.model",
    "LICENSE*",
    "NOTICE*",
)  # what lies beside the weights; code of a folder is never needed
_HEAD = "head."  # CogACT's head in our model
_ROOM = 1.01  # of the disk: the weights, and the small files beside them


def check(out: Path, teacher: Path) -> None:
    """What `save` will need; ask before days of training.

    Raises ContractError if OUT is the teacher, or holds anything but an earlier student of it, or the disk is too
    small, or the teacher is no whole checkpoint in a type that is written.
    """
    made = layout.read(teacher)
    source = checkpoint.open_source(made)
    if not (made.folder / DEPLOYMENT).is_file():
        raise ContractError(f"{made.folder / DEPLOYMENT} is missing; a student sees and moves what its teacher does.")
    _check_out(out, made.folder, checkpoint.identity(made.folder, source))
    needed = int(sum(tensor.nbytes for held in _contents(source, {}).values() for tensor in held.values()) * _ROOM)
    existing = next(folder for folder in out.absolute().parents if folder.is_dir())
    if (free := shutil.disk_usage(existing).free) < needed:
        raise ContractError(
            f"{out}: the student's weights take {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB of the disk are free. "
            "Make room, or give an --out on another disk."
        )


def save(out: Path, teacher: Path, trained: Mapping[str, Tensor], router: VlaRouter, budget: float) -> None:
    """Write the student's folder beside OUT, then put it there: OUT is a whole student or what it was before.

    trained: parameters by our model's own names, of any float type, each asked for when it is written; all others are
    the teacher's. The type is that of the teacher's file. router: calibrated. budget: that the student was made for.

    Raises ContractError for what `check` says, for names or shapes that the teacher has not, for numbers that are not
    finite, and for a router that does not fit or was never calibrated.
    """
    out = out.resolve()  # where a link leads to: the new folder has to be on that disk
    check(out, teacher)
    made = layout.read(teacher)
    source = checkpoint.open_source(made)
    about = {"format": FORMAT, "hidden": router.vision.out_features, "layers": len(router.place)}
    about |= {"patches": router.patches, "budget": budget}
    _check_router(router.state_dict(), _described(about, made.shape, "the trained router"), "the trained router")
    contents = _contents(source, trained)
    unfinished = out.with_name(f".{out.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        _write_weights(unfinished, made, contents)
        write_safetensors(unfinished / ROUTER, {name: _whole(value) for name, value in router.state_dict().items()})
        about |= {"teacher": checkpoint.identity(made.folder, source)}
        (unfinished / ROUTER_CONFIG).write_text(json.dumps(about, indent=1) + "\n")
        _carry(made.folder, unfinished)
        _put(unfinished, out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def load(folder: Path, shape: PrismaticShape, device: str = "cpu") -> tuple[VlaRouter, float] | None:
    """The router and the budget that the student was made for; None for a folder without them.

    Raises ContractError if only one of the two files is there, or if they are damaged or of another model.
    """
    path, about = folder / ROUTER, folder / ROUTER_CONFIG
    if not path.is_file() and not about.is_file():
        return None
    for file in (path, about):
        if not file.is_file():
            raise ContractError(
                f"{file} is missing: a student needs {ROUTER} and {ROUTER_CONFIG}. Copy the folder again."
            )
    router, budget = _read(about, shape)
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        size = path.stat().st_size
        raise ContractError(f"{path} is truncated or damaged ({error}; {size} bytes); copy it again.") from error
    _check_router(state, router, str(path))
    router.load_state_dict(state)
    return router.to(device).eval(), budget


def _whole(value: Tensor) -> Stored:
    return Stored(tuple(value.shape), value.dtype, lambda: iter([value.detach().cpu()]))


def _read(path: Path, shape: PrismaticShape) -> tuple[VlaRouter, float]:
    """A router as router.json says, not filled, and its budget."""
    try:
        about = json.loads(path.read_text())
        if about["format"] != FORMAT:
            raise ContractError(
                f"{path}: format {about['format']!r}; this package reads {FORMAT}. Install a newer one."
            )
        return _described(about, shape, str(path)), float(about["budget"])
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, ContractError):
            raise
        raise ContractError(f"{path} does not describe a router ({error!r}); copy the folder again.") from error


def _described(about: Mapping, shape: PrismaticShape, where: str) -> VlaRouter:
    """Raises ContractError if that router is for another model, or its budget cannot be met; KeyError, TypeError or
    ValueError if it says no such thing."""
    needed = {"layers": shape.decoder.layers, "patches": shape.dino.patches}
    for name, count in needed.items():
        if int(about[name]) != count:
            raise ContractError(
                f"{where}: a router for {about[name]} {name}, the model has {count}. It is of another student; copy "
                "the folder again."
            )
    if not LOWEST_BUDGET <= float(about["budget"]) <= 1.0:
        raise ContractError(f"{where}: budget {about['budget']} is not in {LOWEST_BUDGET} … 1.")
    return VlaRouter(shape.decoder.width, int(about["hidden"]), **needed)


def _check_router(state: Mapping[str, Tensor], router: VlaRouter, where: str) -> None:
    needed = {name: tuple(value.shape) for name, value in router.state_dict().items()}
    weights.problems(needed, {}, {name: tuple(value.shape) for name, value in state.items()}, where)
    for name, _ in router.named_parameters():
        if not torch.isfinite(state[name]).all():
            raise ContractError(f"{where}: {name} is not finite; the file is damaged, or training failed.")
    # An infinite threshold says that a budget allows all layers, or none but those that always run.
    if state["thresholds"].isnan().any() or not torch.allclose(state["budgets"], router.budgets):
        raise ContractError(f"{where}: budgets and thresholds are no calibration; the file is damaged, copy it again.")
    if not state["shares"].any():
        raise ContractError(f"{where} was never calibrated, and no budget can be met. Distil again.")


def _check_out(out: Path, teacher: Path, identity: str) -> None:
    if out.resolve() == teacher.resolve():
        raise ContractError(f"--out {out} is the teacher itself; give a folder of the student's own.")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    try:
        owner = json.loads((out / ROUTER_CONFIG).read_text())["teacher"]
    except (OSError, ValueError, KeyError, TypeError):
        raise ContractError(f"{out} is there and holds no student of {identity}; give another --out.") from None
    if owner != identity:
        raise ContractError(f"{out} holds a student of {owner}, not of {identity}; give another --out.")


def _contents(source: TensorSource, trained: Mapping[str, Tensor]) -> dict[str, dict[str, Stored]]:
    """What the student's files hold, as `TensorSource.contents` has it.

    Raises ContractError if something was trained that the teacher has not.
    """
    held = source.contents()
    # The average that the teacher's head left behind says nothing of the student's, which would be taken for it.
    held.pop(cogact_checkpoint.AVERAGED, None)
    for ours in trained:
        part, name = _place(source, ours)
        old = held.get(part, {}).get(name)
        if old is None:
            raise ContractError(f"{ours} was trained, which {source.where} does not have; it is no teacher of that.")
        held[part][name] = Stored(old.shape, old.dtype, partial(_converted, trained, ours, old))
    return held


def _place(source: TensorSource, ours: str) -> tuple[str, str]:
    if ours.startswith(_HEAD):
        return cogact_checkpoint.HEAD, cogact_checkpoint.NET + ours.removeprefix(_HEAD)
    try:
        return source.place(weights.stored_name(ours))
    except KeyError:
        raise ContractError(f"{ours} was trained, which no teacher of this kind has ({source.where}).") from None


def _converted(trained: Mapping[str, Tensor], ours: str, old: Stored) -> Iterator[Tensor]:
    """A trained tensor as it is stored, a part at a time. It is asked for here and not kept: it may be computed then.

    Raises ContractError if it has not the shape of the teacher's, or is not finite.
    """
    value = trained[ours]
    if tuple(value.shape) != old.shape:
        raise ContractError(f"{ours} was trained as {tuple(value.shape)}; the teacher's is {old.shape}.")
    for rows in row_slices(old.shape):
        part = value[rows].detach().to("cpu", old.dtype)
        if not torch.isfinite(part).all():
            raise ContractError(f"{ours} is not finite as {str(old.dtype).removeprefix('torch.')}: training failed.")
        yield part


def _write_weights(folder: Path, made: Layout, contents: Mapping[str, Mapping[str, Stored]]) -> None:
    if made.prismatic is None:
        write_shards(folder, contents[""])
    else:
        (folder / "checkpoints").mkdir()
        write_prismatic(folder / "checkpoints" / made.prismatic.name, contents)


def _carry(teacher: Path, folder: Path) -> None:
    """What lies beside the weights; the config last, without which nothing is loaded."""
    found = {path for pattern in _CARRIED for path in teacher.glob(pattern) if path.is_file()}
    for path in found - {teacher / name for name in (INDEX, ROUTER_CONFIG, DEPLOYMENT, CONFIG)}:
        shutil.copyfile(path, folder / path.name)
    told = json.loads((teacher / DEPLOYMENT).read_text())
    told.pop("layers", None)  # the router says in each step
    (folder / DEPLOYMENT).write_text(json.dumps(told, indent=1) + "\n")
    shutil.copyfile(teacher / CONFIG, folder / CONFIG)


def _put(unfinished: Path, out: Path) -> None:
    if not out.exists():
        unfinished.rename(out)
        return
    replaced = out.with_name(f".{out.name}.replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    out.rename(replaced)
    unfinished.rename(out)
    shutil.rmtree(replaced)
