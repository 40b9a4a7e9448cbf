#!/usr/bin/env python3
"""Compares a VLA checkpoint in bfloat16 with itself in eight or four bits, side by side, and prints it as JSON; or in
float32, which says how far bfloat16 itself is off.

    tools/make_vla_checkpoint.py vla-1b --size 1b --dtype bfloat16
    tools/measure_vla_quantised.py vla-1b --dtype int8 --threads 1

`prompt`, `word` and `words` are the prompt, one word after it, and both with seven words; each time is a median over
turns, each ratio is to bfloat16. `logits` is the norm of the logits' difference over their own, at all positions of
prompts with random pictures; `same_word` and `same_action` are shares of positions whose likeliest word, or likeliest
of the 256 action words, is the same; `bins_off` is how far the latter are apart on average. Random weights leave near
ties that a trained model has not.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path

import torch

from actdistill_ros.bench.shapes import side_by_side
from actdistill_ros.policy.vla import checkpoint
from actdistill_ros.trials.report import machine

WORDS = 7
INSTRUCTIONS = ("put the red block in the bowl", "close the drawer", "pick up the cup and place it on the plate")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--dtype", choices=("int8", "int4", "float32"), default="int8")
    parser.add_argument("--prompts", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    both = [checkpoint.load(args.checkpoint, dtype=dtype) for dtype in ("bfloat16", args.dtype)]
    with torch.inference_mode():
        found = {**machine(), "dtype": args.dtype, "threads": args.threads, **agreement(both, args.prompts)}
        found |= {"weights_bytes": [sum(p.nbytes for p in one.model.parameters()) for one in both]}
        print(json.dumps(found | times(both, args.seconds), indent=1))


def prompt(loaded: checkpoint.VlaCheckpoint, number: int) -> torch.Tensor:
    """What the decoder is given for a random picture and one of the instructions, (1, N, D)."""
    noise = torch.Generator().manual_seed(number)
    size = loaded.vision.size
    pixels = torch.randn(1, 6, size, size, generator=noise).bfloat16()
    ids = torch.tensor([loaded.reader.action_prompt(INSTRUCTIONS[number % len(INSTRUCTIONS)])])
    return loaded.model.vlm.embed_inputs(pixels, ids)


def agreement(both: list[checkpoint.VlaCheckpoint], prompts: int) -> dict:
    bins, sums = both[0].bins, dict.fromkeys(("off", "size", "word", "action", "bins", "count"), 0.0)
    actions = slice(bins.vocabulary - bins.count, bins.vocabulary)
    for number in range(prompts):
        given = prompt(both[0], number)
        exact, rounded = (logits(one, given) for one in both)  # (N, V)
        chosen, other = exact[:, actions].argmax(-1), rounded[:, actions].argmax(-1)  # (N,)
        sums["off"] += float((exact - rounded).square().sum())
        sums["size"] += float(exact.square().sum())
        sums["word"] += int((exact.argmax(-1) == rounded.argmax(-1)).sum())
        sums["action"] += int((chosen == other).sum())
        sums["bins"] += float((chosen - other).abs().sum())
        sums["count"] += len(exact)
    count = sums["count"]
    return {
        "positions": int(count),
        "logits": (sums["off"] / sums["size"]) ** 0.5,
        "same_word": sums["word"] / count,
        "same_action": sums["action"] / count,
        "bins_off": sums["bins"] / count,
    }


def logits(loaded: checkpoint.VlaCheckpoint, given: torch.Tensor) -> torch.Tensor:
    model = loaded.model
    return model.lm_head(model.vlm.decoder(given.to(model.lm_head.weight.dtype), None))[0].float()  # (N, V)


def times(both: list[checkpoint.VlaCheckpoint], seconds: float) -> dict:
    prompted, plan = prompt(both[0], 0), (True,) * len(both[0].model.vlm.decoder.layers)
    ways = []
    for one in both:
        given = prompted.to(one.model.lm_head.weight.dtype)
        decoder, cache = one.model.vlm.decoder, one.model.vlm.decoder.prefill(given, None, plan)[1]

        def word(decoder=decoder, cache=cache, given=given) -> None:
            cache.length = given.shape[1]  # what the last time added is written over
            decoder.decode(given[:, -1:], cache)

        ways += [partial(decoder.prefill, given, None, plan), word, partial(one.model.words, given, plan, WORDS)]
    measured = side_by_side(tuple(ways), seconds)
    names = ("prompt", "word", "words")
    exact, rounded = measured[: len(names)], measured[len(names) :]
    found = {f"{name}_ms": [a, b] for name, a, b in zip(names, exact, rounded, strict=True)}
    return found | {f"{name}_ratio": b / a for name, a, b in zip(names, exact, rounded, strict=True)}


if __name__ == "__main__":
    main()
