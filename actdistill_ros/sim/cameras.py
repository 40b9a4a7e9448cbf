"""Virtual cameras: one thread renders, any number of clients wait for the newest frame."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import numpy as np

from actdistill_ros.sim import layout
from actdistill_ros.sim.protocol import FRAME
from actdistill_ros.sim.rig import Rig
from actdistill_ros.sim.world import Eyes


class CameraBank:
    """Frames of the named cameras at `fps`, only while somebody watches."""

    def __init__(
        self, rig: Rig, names: tuple[str, ...], fps: float, pixels: int, clock: Callable[[], float] = time.time
    ) -> None:
        self.names = names
        self._rig, self._period_s, self._pixels, self._clock = rig, 1.0 / fps, pixels, clock
        self._news = threading.Condition()
        self._frames: dict[str, tuple[int, bytes]] = {}
        self._watchers = dict.fromkeys(names, 0)
        self._unplugged: set[str] = set()
        self._stop, self._ready, self._failure = threading.Event(), threading.Event(), ""
        self._thread = threading.Thread(target=self._render, daemon=True)

    def start(self) -> None:
        """Raises RuntimeError if this machine cannot render."""
        self._thread.start()
        self._ready.wait()
        if self._failure:
            raise RuntimeError(
                f"cameras cannot be rendered ({self._failure}); install Mesa's EGL (libegl1, libgl1-mesa-dri)"
            )

    def stop(self) -> None:
        self._stop.set()
        with self._news:
            self._news.notify_all()
        self._thread.join(5.0)

    def intrinsics(self, name: str) -> dict:
        """Pinhole numbers in pixels and the nominal pose that the world gives this camera."""
        fovy = layout.FRONT_FOVY_DEG if name == "front" else layout.WRIST_FOVY_DEG
        focal = self._pixels / 2 / float(np.tan(np.radians(fovy) / 2))
        centre = self._pixels / 2 - 0.5
        return {"height": self._pixels, "width": self._pixels, "fx": focal, "fy": focal, "cx": centre, "cy": centre}

    def inject(self, name: str, unplugged: bool) -> dict:
        """Pull a camera's cable, or put it back."""
        if name not in self.names:
            raise ValueError(f"no camera {name!r}; this world shows {', '.join(self.names)}")
        (self._unplugged.add if unplugged else self._unplugged.discard)(name)
        with self._news:
            self._news.notify_all()
        return {"ok": True}

    @property
    def watched(self) -> bool:
        """Somebody takes frames."""
        return any(self._watchers.values())

    def frames(self, name: str) -> Iterator[bytes]:
        """Newest frames, each once, as FRAME header and RGB bytes; ends when the camera is unplugged or the bank
        stops."""
        seen = 0
        with self._news:
            self._watchers[name] += 1
        try:
            while not self._stop.is_set() and name not in self._unplugged:
                with self._news:
                    self._news.wait_for(lambda: self._fresh(name, seen), timeout=0.5)
                    number, frame = self._frames.get(name, (0, b""))
                if number > seen and name not in self._unplugged:
                    seen = number
                    yield frame
        finally:
            with self._news:
                self._watchers[name] -= 1

    def _fresh(self, name: str, seen: int) -> bool:
        return self._stop.is_set() or name in self._unplugged or self._frames.get(name, (0, b""))[0] > seen

    def _render(self) -> None:
        try:
            eyes = Eyes(self._rig.env.world.model, self._pixels)  # here: the OpenGL context belongs to this thread
        except Exception as error:  # whatever the graphics driver says, `start` has to tell it
            self._failure = str(error)
            return
        finally:
            self._ready.set()
        number, deadline = 0, time.monotonic()
        while not self._stop.is_set():
            number += 1
            for name in self.names:
                if self._watchers[name]:
                    self._show(eyes, name, number)
            deadline = max(deadline + self._period_s, time.monotonic() - self._period_s)
            self._stop.wait(max(0.0, deadline - time.monotonic()))
        eyes.close()

    def _show(self, eyes: Eyes, name: str, number: int) -> None:
        with self._rig.lock:
            stamp = self._clock()
            eyes.look(self._rig.env.world.data, name)
        image = eyes.render()
        frame = FRAME.pack(stamp, *image.shape[:2]) + image.tobytes()
        with self._news:
            self._frames[name] = (number, frame)
            self._news.notify_all()
