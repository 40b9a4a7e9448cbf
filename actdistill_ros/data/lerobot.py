"""Data sets in the LeRobotDataset v3 layout: what others import.

meta/info.json, stats.json, tasks.parquet, episodes/chunk-000/file-000.parquet
data/chunk-000/file-000.parquet                            many episodes per file
videos/observation.images.<camera>/chunk-000/file-000.mp4  the same episodes, end to end
cache/                                                     decoded frames, ours; delete it when you like
"""

from actdistill_ros.data.episode import DataError, Episode, Extra
from actdistill_ros.data.index import rebuild
from actdistill_ros.data.reader import Dataset, Row
from actdistill_ros.data.writer import Writer, finished_seeds

__all__ = ["DataError", "Dataset", "Episode", "Extra", "Row", "Writer", "finished_seeds", "rebuild"]
