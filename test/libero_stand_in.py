"""A world of a few lines that speaks LIBERO's wire: a point, a bowl and a plate. For tests of everything around the
benchmark.

In each reset the plate is drawn anew, as LIBERO draws its furniture. Trial 1 of any task cannot be done. SLOW_S in the
folder of the environment makes every step last; DIES makes the process end in its first step.
"""

import socket
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "actdistill_ros" / "suites" / "benchmark"))

import numpy as np
import wire

TASKS = [{"name": f"task_{i}", "instruction": f"put bowl {i} on the plate", "trials": 50} for i in range(10)]


class PointWorld:
    def __init__(self, pixels, cameras):
        self.pixels, self.cameras = pixels, cameras

    def reset(self, trial, draws):
        if draws is not None:
            np.random.set_state(("MT19937", draws[:624], int(draws[624]), 0, 0.0))
        self.plate = np.array([0.05, 0.2, 0.9]) + np.random.uniform(-0.01, 0.01, 3)
        self.bowl = np.array([-0.05 + 0.001 * trial, 0.1, 0.9])
        self.tcp, self.stuck = np.array([-0.2, 0.0, 1.17]), trial == 1
        state = np.random.get_state()
        return {"draws": np.append(state[1], state[2]).astype("<u4")}

    def step(self, action):
        grasped = action[6] > 0 and np.linalg.norm(self.tcp - self.bowl - [0, 0.047, 0.04]) < 0.02
        moved = 0.01 * np.clip(action[:3], -1, 1)
        self.tcp = self.tcp + moved
        if grasped and not self.stuck:
            self.bowl = self.bowl + moved
        return bool(action[6] < 0 and np.linalg.norm((self.bowl - self.plate)[:2]) < 0.02)

    def observation(self, look=True):
        shade = np.linspace(0, 255, self.pixels)[:, None] * np.abs(np.sin([self.plate[0] * 99, 1, self.bowl[0] * 99]))
        image = np.broadcast_to(shade[:, None], (self.pixels, self.pixels, 3)).astype("|u1")
        objects = [np.append(p, [0, 0, 0, 1]) for p in (self.bowl, self.plate)]
        arrays = {f"{name}_image": image for name in self.cameras if look}
        arrays["state"] = np.concatenate([self.tcp, [np.pi, 0, 0, 0.04, -0.04]])
        arrays["objects"] = np.array(objects)
        return {"objects": ["akita_black_bowl_1", "plate_1"]}, arrays


def main(fd, _, pixels, *cameras):
    connection, world = socket.socket(fileno=int(fd)), PointWorld(int(pixels), cameras)
    settings = {name: Path(sys.argv[0]).with_name(name) for name in ("SLOW_S", "DIES")}
    while True:
        try:
            header, arrays = wire.receive(connection)
        except EOFError:
            return
        body, out = {}, {}
        if header["op"] == "hello":
            body = {"tasks": TASKS, "versions": {"stand-in": "1"}}
        elif header["op"] == "build":
            np.random.seed(header["seed"])
        elif header["op"] == "reset":
            draws = world.reset(header["trial"], arrays.get("draws"))
            for _ in range(header["settle"]):
                world.step(arrays["still"])
            body, out = world.observation()
            out |= draws
        elif header["op"] == "step":
            if settings["DIES"].exists():
                print("the ground opened", file=sys.stderr)
                sys.exit(3)
            if settings["SLOW_S"].exists():
                time.sleep(float(settings["SLOW_S"].read_text()))
            done = world.step(arrays["action"])
            body, out = world.observation(header["look"])
            body["done"] = done
        wire.send(connection, body, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
