"""A supervised graph whose nodes are scripts of one folder: `python graph_of_scripts.py FOLDER NODE…`.

A node that is written `name!` says "ready" before the next one starts; one written `name?` may end without harm.
Scripts note what happens to them in the FIFO `events`, which ends when the last of them is gone.
"""

import sys
from pathlib import Path

from actdistill_ros.bringup import Graph, NodeSpec
from actdistill_ros.run_folder import RunFolder
from actdistill_ros.supervisor import Supervisor


def main(folder: Path, *names: str) -> int:
    nodes = tuple(
        NodeSpec(
            name.rstrip("!?"), name.rstrip("!?"), ready="ready" if "!" in name else None, essential="?" not in name
        )
        for name in names
    )
    graph = Graph(nodes, "/", "info", folder / "run", {})

    def hold(timeout_s: float) -> bool:
        with open(folder / "events", "w") as events:
            events.write("hold\n")
        return True

    return Supervisor(graph, RunFolder(graph.folder), hold, find=lambda node: folder / node.executable).run()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *sys.argv[2:]))
