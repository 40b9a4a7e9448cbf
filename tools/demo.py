"""The demonstration: one trial of each task on the simulated arm, through the whole graph; a table, a report, a film.

Further words go to `actdistill trials`, for example `make demo ARGS="--trials 8 --suite tabletop-hard"`.
"""

from __future__ import annotations

import sys
import time

from actdistill_ros.cli import main

if __name__ == "__main__":
    folder = f"out/demo-{time.strftime('%Y%m%d-%H%M%S')}"
    code = main(
        ["trials", "--trials", "4", "--json", f"{folder}/report.json", "--video", f"{folder}/trials.mp4", *sys.argv[1:]]
    )
    if not code:
        print(f"report: {folder}/report.json   film: {folder}/trials.mp4")
    sys.exit(code)
