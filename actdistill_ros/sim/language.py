"""Instructions: templates that training uses, and paraphrases that it never sees."""

from __future__ import annotations

import numpy as np

from actdistill_ros.sim.tasks import Goal

TRAINING = {
    "lift": (
        "pick up the {block} block",
        "lift the {block} block",
        "grab the {block} cube",
        "take the {block} block and lift it",
        "raise the {block} cube up",
        "please pick the {block} cube up",
        "get the {block} block off the table",
    ),
    "bowl": (
        "put the {block} block in the bowl",
        "place the {block} cube in the bowl",
        "drop the {block} block into the bowl",
        "move the {block} cube into the white bowl",
        "please put the {block} block into the bowl",
        "take the {block} cube and put it in the bowl",
        "the {block} block goes in the bowl",
    ),
    "push": (
        "push the {block} block {side}",
        "push the {block} cube to the {side}",
        "slide the {block} block {side}",
        "move the {block} block to the {side}",
        "please push the {block} cube {side}",
        "shove the {block} block to the {side} side",
        "slide the {block} cube over to the {side}",
    ),
    "stack": (
        "stack the {block} block on the {other} block",
        "put the {block} block on the {other} block",
        "place the {block} cube on top of the {other} cube",
        "set the {block} block on top of the {other} block",
        "please stack the {block} cube on the {other} cube",
        "take the {block} block and put it on the {other} one",
        "move the {block} cube onto the {other} cube",
    ),
}
HELD_OUT = {
    "lift": (
        "please lift the {block} cube off the table",
        "grab the {block} block and raise it",
        "take the {block} cube up",
    ),
    "bowl": (
        "please drop the {block} cube in the white bowl",
        "take the {block} block and place it into the bowl",
        "move the {block} block in the bowl",
    ),
    "push": (
        "please slide the {block} cube to the {side} side",
        "shove the {block} cube {side}",
        "push the {block} block over to the {side}",
    ),
    "stack": (
        "please set the {block} cube on the {other} cube",
        "take the {block} cube and place it on top of the {other} block",
        "move the {block} block on top of the {other} one",
    ),
}
THEN = " then "
_SIDES = {1: "left", -1: "right", 0: ""}


def phrase(goals: tuple[Goal, ...], rng: np.random.Generator, held_out: bool = False) -> str:
    """One instruction for the goals, the template drawn at random."""
    templates = HELD_OUT if held_out else TRAINING
    parts = []
    for goal in goals:
        options = templates[goal.kind]
        text = options[int(rng.integers(len(options)))]
        parts.append(text.format(block=goal.block, other=goal.other, side=_SIDES[goal.side]))
    return THEN.join(parts)


def training_instructions(blocks: tuple[str, ...]) -> tuple[str, ...]:
    """Every one-goal instruction that training can contain, sorted."""
    texts = set()
    for kind, options in TRAINING.items():
        for option in options:
            for block in blocks:
                for other in blocks if kind == "stack" else ("",):
                    for side in ("left", "right") if kind == "push" else ("",):
                        if other != block:
                            texts.add(option.format(block=block, other=other, side=side))
    return tuple(sorted(texts))
