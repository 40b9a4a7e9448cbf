"""Shape of the policy; stored beside the weights."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RouterConfig:
    """hidden: width of the router; budget: share of decoder compute that the student was made for; recent: how many of
    the actions commanded last it is told."""

    hidden: int = 32
    budget: float = 0.47
    recent: int = 0


@dataclass(frozen=True)
class PolicyConfig:
    """Sizes of vision, decoder and head. `vision_tokens` gives tokens per camera, in the contract's order.

    router: None for a policy that runs all its layers.
    """

    vocabulary: tuple[str, ...]
    cameras: tuple[str, ...] = ("front", "wrist")
    image_size: int = 96
    vision_tokens: tuple[int, ...] = (12, 6)
    vision_width: int = 64
    width: int = 160
    heads: int = 5
    feed_forward: int = 432
    layers: int = 12
    state_dim: int = 10
    chunk: int = 8
    action_dim: int = 7
    scene_dim: int = 14
    focus_dim: int = 6
    router: RouterConfig | None = None
