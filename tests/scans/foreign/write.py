"""Write the scans in this folder, all of the same six made-up points, with other programs.

    pip install open3d==0.20.0 pymeshlab==2025.7.post1 copclib==2.6.3 "laspy[laszip]==2.7.0" pypcd4
    python tests/scans/foreign/write.py tests/scans/foreign

Takes 10 s. The programs have readers and writers of their own: Open3D (rply, its own PCD), MeshLab
(VCGlib, libE57Format), LASzip and copclib (lazperf). Only the headers of the two LASzip files are
laspy's. The tests compare with `XYZ` and `RGB`, so they need none of these packages.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

XYZ = np.array(
    [
        [-0.5, 13.25, 1.5],
        [-1.25, 13.375, 1.125],
        [-1.75, 11.25, 2.25],
        [2.75, 11.25, 1.5],
        [1.625, 12.75, 1.375],
        [1.25, 12.625, 1.0],
    ]
)
RGB = np.array(
    [[85, 15, 248], [177, 10, 28], [133, 108, 120], [3, 76, 236], [148, 13, 213], [196, 79, 51]],
    np.uint8,
)
FAR = np.array([500_000.0, 4_000_000.0, 0.0])  # added to the points of the LAZ files
STEP = 0.001  # m, of the LAZ files
WKT = 'PROJCS["WGS 84 / UTM zone 32N",AUTHORITY["EPSG","32632"]]'  # of the COPC file


def write_open3d(folder: Path) -> None:
    """Write PLY, PCD and text from its older interface, PLY, PCD and NPZ from its tensors."""
    import open3d

    cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(XYZ))
    cloud.colors = open3d.utility.Vector3dVector(RGB / 255)
    write = open3d.io.write_point_cloud
    write(str(folder / "open3d_ascii.ply"), cloud, write_ascii=True)
    write(str(folder / "open3d_ascii.pcd"), cloud, write_ascii=True)
    write(str(folder / "open3d_compressed.pcd"), cloud, compressed=True)
    for suffix in ("ply", "pcd", "pts", "xyz", "xyzrgb"):
        write(str(folder / f"open3d.{suffix}"), cloud)
    tensors = open3d.t.geometry.PointCloud(open3d.core.Tensor(XYZ.astype(np.float32)))
    tensors.point.colors = open3d.core.Tensor(RGB)
    tensors.point.intensity = open3d.core.Tensor(np.arange(6, dtype=np.float32)[:, None])
    for suffix in ("ply", "pcd", "npz"):
        open3d.t.io.write_point_cloud(str(folder / f"open3d_tensors.{suffix}"), tensors)


def write_meshlab(folder: Path) -> None:
    """Write PLY, E57, and XYZ, which has zeros where others have colours."""
    import pymeshlab

    meshes = pymeshlab.MeshSet()
    color = np.c_[RGB / 255, np.ones(len(RGB))]
    meshes.add_mesh(pymeshlab.Mesh(vertex_matrix=XYZ, v_color_matrix=color))
    meshes.save_current_mesh(str(folder / "meshlab_ascii.ply"), binary=False)
    for suffix in ("ply", "e57", "xyz"):
        meshes.save_current_mesh(str(folder / f"meshlab.{suffix}"))


def write_copclib(folder: Path) -> None:
    """Write LAZ 1.4, point format 7, and the same as COPC, in two nodes of its octree."""
    import copclib

    step, far = copclib.Vector3(STEP, STEP, STEP), copclib.Vector3(*FAR)
    config = copclib.LazConfigWriter(7, step, far)
    points = copclib.Points(config.las_header)
    for pos, color in zip((XYZ + FAR).tolist(), RGB.tolist(), strict=True):
        point = points.CreatePoint()
        point.x, point.y, point.z = pos
        point.red, point.green, point.blue = (257 * value for value in color)
        points.AddPoint(point)
    writer = copclib.LazWriter(str(folder / "copclib.laz"), config)
    writer.WritePoints(points)
    writer.Close()
    config = copclib.CopcConfigWriter(7, step, far, wkt=WKT, has_extended_stats=True)
    low, high = (XYZ + FAR).min(axis=0), (XYZ + FAR).max(axis=0)
    config.las_header.min, config.las_header.max = copclib.Vector3(*low), copclib.Vector3(*high)
    writer = copclib.FileWriter(str(folder / "copclib.copc.laz"), config)
    for key, part in (((0, 0, 0, 0), slice(0, 2)), ((1, 1, 1, 1), slice(2, 6))):
        some = copclib.Points(config.las_header)
        some.AddPoints(list(points)[part])
        writer.AddNode(copclib.VoxelKey(*key), some)
    writer.Close()


def write_laszip(folder: Path) -> None:
    """Write LAZ 1.2 and 1.4, whose compressors differ."""
    import laspy

    for version, point_format in (("1.2", 3), ("1.4", 7)):
        header = laspy.LasHeader(version=version, point_format=point_format)
        header.scales, header.offsets = [STEP] * 3, FAR
        data = laspy.LasData(header)
        data.x, data.y, data.z = (XYZ + FAR).T
        data.red, data.green, data.blue = RGB.T.astype(np.uint16) * 257
        path = folder / f"laszip_{version.replace('.', '')}.laz"
        data.write(str(path), laz_backend=laspy.LazBackend.Laszip)


def write_pypcd4(folder: Path) -> None:
    """Write binary and compressed PCD with the colour packed into a float."""
    from pypcd4 import Encoding, PointCloud

    packed = PointCloud.encode_rgb(RGB)
    cloud = PointCloud.from_xyzrgb_points(np.c_[XYZ.astype(np.float32), packed])
    cloud.save(folder / "pypcd4.pcd", encoding=Encoding.BINARY)
    cloud.save(folder / "pypcd4_compressed.pcd", encoding=Encoding.BINARY_COMPRESSED)


if __name__ == "__main__":
    for write in (write_open3d, write_meshlab, write_copclib, write_laszip, write_pypcd4):
        write(Path(sys.argv[1]))
