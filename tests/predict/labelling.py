"""Label a scan, read the result, and make scans that are harder to label."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plyfile import PlyData

from pipelines.config import PredictConfig
from pipelines.predict import PredictResult, predict
from pipelines.runs.directory import Run


def label(scan: Path, run: Run, **options: Any) -> PredictResult:
    return predict(PredictConfig(scans=(scan,), run=run.path, device="cpu", **options))


def labelled(path: Path) -> Any:
    return PlyData.read(str(path))["vertex"].data


def write_as(path: Path, pos: np.ndarray, color: np.ndarray) -> Path:
    if path.suffix == ".csv":
        np.savetxt(path, np.hstack([pos, color]), fmt="%d", delimiter=",")
    elif path.suffix == ".npz":
        np.savez(path, pos=pos, color=color / 255)
    elif path.suffix == ".las":
        laspy = pytest.importorskip("laspy")
        data = laspy.LasData(laspy.LasHeader(version="1.4", point_format=7))
        data.x, data.y, data.z = pos.T
        data.red, data.green, data.blue = color.T.astype(np.uint16) * 257
        data.write(str(path))
    else:
        head = "FIELDS x y z r g b\nSIZE 4 4 4 1 1 1\nTYPE F F F U U U\n"
        head += f"WIDTH {len(pos)}\nHEIGHT 1\nPOINTS {len(pos)}\nDATA ascii\n"
        lines = (" ".join(map(str, row)) for row in np.hstack([pos, color]).astype(int).tolist())
        path.write_text(head + "\n".join(lines))
    return path


def with_stray_points(
    points: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """Return the scan behind a point below it, one beside it and 40 at the origin."""
    stray = np.concatenate([points[0][:2] + np.array([[0, 0, -3], [100, 0, 0]]), np.zeros((40, 3))])
    return np.concatenate([stray, points[0]]), np.concatenate([points[1][:42], points[1]])
