"""`deepgcn doctor` and `deepgcn presets` as a person types them."""

from __future__ import annotations

import json
from importlib import metadata

import pytest

from deepgcn_cli.__main__ import run


def succeed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return what stdout says."""
    code = run(list(arguments))
    shown = capsys.readouterr()
    assert code == 0, shown.err
    return shown.out


def test_presets_list_every_published_row(capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads(succeed(capsys, "presets", "--json"))
    sizes = {row["preset"]: row["parameters"] / 1e6 for row in rows}
    assert sizes["resgcn-28"] == pytest.approx(3.644, abs=5e-4)
    table = succeed(capsys, "presets")
    assert table.count("\n") == len(rows) + 2
    assert "52.49 " in table
    assert "53.78†" in table


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    answer = json.loads(succeed(capsys, "doctor", "--json"))
    assert answer["missing packages"] == []
    assert answer["cores"] >= 1
    assert any(name.startswith("torch ") for name in answer["packages"])
    assert {"las", "e57", "onnx"} <= set(answer["extras"])
    assert answer["extras"]["las"] == []  # the tests need it
    assert "processor" in succeed(capsys, "doctor")


def test_doctor_says_how_to_install_what_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    version = metadata.version

    def without(name: str) -> str:
        if name in ("lazrs", "onnx"):
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(metadata, "version", without)
    lines = succeed(capsys, "doctor").splitlines()
    shown = {line.split("  ")[0]: line for line in lines if line.startswith("extra")}
    # lazrs is no requirement of this package but of laspy[lazrs], which the extra asks for.
    assert shown["extra las"].endswith("missing lazrs: pip install 'deepgcn[las]'")
    assert shown["extra e57"].endswith("installed")
    assert shown["extra onnx"].endswith("missing onnx: pip install 'deepgcn[onnx]'")
    assert "lazrs, onnx" in shown["extra test"]
