"""From limp to stiff: the arm hears that it is limp first, and is then followed until it answers from there."""

from __future__ import annotations


class Power:
    """What the arm was told last, and since when it is to get power. It begins limp."""

    def __init__(self) -> None:
        self._heard, self._since_s = True, None

    def off(self) -> None:
        """The arm is to be limp."""
        self._heard, self._since_s = False, None

    def on(self, now_s: float) -> None:
        """The arm is to be stiff."""
        self._since_s = now_s

    def damp(self, now_s: float) -> None:
        """The arm is told now to be limp."""
        self._heard = True
        if self._since_s is not None:
            self._since_s = now_s

    @property
    def unheard(self) -> bool:
        """Whether the arm has not been told yet that it is limp: made stiff again before a tick, it still must be.

        Otherwise an arm in motion would be told to stand at once, with all its stiffness.
        """
        return not self._heard

    @property
    def waiting(self) -> bool:
        """Whether power comes on: the arm is to be commanded to where it is."""
        return self._since_s is not None

    def coming(self, answered_s: float) -> bool:
        """Whether the motors' answers are still those from before; the arm may have moved since, so follow them."""
        if self._heard and self._since_s is not None and answered_s >= self._since_s:
            self._since_s = None
        return self.waiting
