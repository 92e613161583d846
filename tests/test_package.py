"""The wheel: what an installation holds, used from another directory."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's wheel, built from a copy of its files: a build leaves things behind."""
    source = tmp_path_factory.mktemp("source")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a checkout: there is no list of the project's files")
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    out = tmp_path_factory.mktemp("wheel")
    run(["-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)], out)
    (found,) = out.glob("deepgcn-*.whl")
    return found


def run(arguments: list[str], folder: Path, **environment: str) -> str:
    """Run Python in `folder` and return what it prints."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_wheel_holds_both_packages_whole_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {"deepgcn_cli", "pipelines"}
    sources = {
        path.relative_to(ROOT).as_posix()
        for package in ("deepgcn_cli", "pipelines")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert sources <= set(names)


@pytest.mark.slow
def test_an_installation_works_from_another_directory(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    install = ["-m", "pip", "install", "--no-deps", "--no-index", "--target", str(site)]
    run([*install, "--disable-pip-version-check", str(wheel)], tmp_path)
    assert (site / "bin" / "deepgcn").is_file()
    code = (
        "import pipelines.model.deepgcn as d, deepgcn_cli, torch\n"
        "from pipelines.config import ModelConfig\n"
        "model = d.DeepGCN(ModelConfig(depth=2, width=8, k=4)).eval()\n"
        "print(d.__file__, model(torch.rand(1, 64, 9)).shape)\n"
    )
    shown = run(["-c", code], tmp_path, PYTHONPATH=str(site))
    assert shown.startswith(str(site))
    assert "torch.Size([1, 64, 13])" in shown
    helped = run(["-m", "deepgcn_cli", "--help"], tmp_path, PYTHONPATH=str(site))
    assert "prepare" in helped
