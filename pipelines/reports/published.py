"""Published scores on S3DIS that stand beside ours in reports, in percent.

Only the figures marked `cited` were read in a public source; the others are recalled from the paper
and carry a dagger wherever they are shown.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedRow:
    """A published six-fold result: name, OA, mIoU and the IoUs in the class order of S3DIS."""

    name: str
    oa: float | None
    miou: float
    iou: tuple[float, ...] | None = None
    cited: bool = False


# Li et al., DeepGCNs, ICCV 2019, table 2; each row's IoUs average to its mIoU.
SIX_FOLD = (
    PublishedRow(
        "PointNet",
        78.5,
        47.6,
        (88.0, 88.7, 69.3, 42.4, 23.1, 47.5, 51.6, 54.1, 42.0, 9.6, 38.2, 29.4, 35.2),
    ),
    PublishedRow(
        "MS+CU",
        79.2,
        47.8,
        (88.6, 95.8, 67.3, 36.9, 24.9, 48.6, 52.3, 51.9, 45.1, 10.6, 36.8, 24.7, 37.5),
    ),
    PublishedRow(
        "G+RCU",
        81.1,
        49.7,
        (90.3, 92.1, 67.9, 44.7, 24.2, 52.3, 51.2, 58.1, 47.4, 6.9, 39.0, 30.0, 41.9),
    ),
    PublishedRow(
        "PointNet++",
        None,
        53.2,
        (90.2, 91.7, 73.1, 42.7, 21.2, 49.7, 42.3, 62.7, 59.0, 19.6, 45.8, 48.2, 45.6),
    ),
    PublishedRow(
        "3DRNN+CF",
        86.9,
        56.3,
        (92.9, 93.8, 73.1, 42.5, 25.9, 47.6, 59.2, 60.4, 66.7, 24.8, 57.0, 36.7, 51.6),
    ),
    PublishedRow("DGCNN", 84.1, 56.1, cited=True),
    PublishedRow(
        "ResGCN-28",
        85.9,
        60.0,
        (93.1, 95.3, 78.2, 33.9, 37.4, 56.1, 68.2, 64.9, 61.0, 34.6, 51.5, 51.1, 54.4),
    ),
)
