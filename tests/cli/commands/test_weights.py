"""`deepgcn weights`: import, export, inspect, as typed."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deepgcn_cli.__main__ import run
from pipelines.config import ModelConfig
from pipelines.files import sha256_of
from pipelines.model.deepgcn import DeepGCN
from pipelines.weights import catalogue
from pipelines.weights.published import published_state
from pipelines.weights.safetensors import load_weights, read_metadata, save_weights
from tests.tiny_run import train_tiny_run
from tests.tiny_store import write_tiny_store

SMALL = ModelConfig(depth=3, width=8, k=4, fusion_channels=16, layout="torch")
LOG = (
    "Namespace(edge_lay='dilated', gcn='edgeconv', num_filters=[8], num_neighbors=[4], "
    "dilations=[-1], num_layers=3, num_points=512, skip_connect='dense', "
    "sto_dilated_epsilon=0.2, stochastic_dilation=True)\n"
)


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def network(config: ModelConfig = SMALL) -> DeepGCN:
    torch.manual_seed(0)
    return DeepGCN(config).eval()


def save_released(path: str, config: ModelConfig = SMALL) -> DeepGCN:
    """Write a checkpoint as the PyTorch release does, from several GPUs."""
    model = network(config)
    state = {f"module.{name}": value for name, value in published_state(model).items()}
    torch.save({"epoch": 100, "state_dict": state, "best_value": np.float64(0.5)}, path)
    return model


def succeed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return what stdout says."""
    code = run(["weights", *arguments])
    shown = capsys.readouterr()
    assert code == 0, shown.err
    return shown.out


def fail(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return what stderr says of something that a person can mend."""
    assert run(["weights", *arguments]) == 1
    shown = capsys.readouterr()
    assert "Traceback" not in shown.err
    assert shown.out == ""
    assert shown.err.count("\n") <= 3
    return shown.err


def assert_same(found: DeepGCN, expected: DeepGCN) -> None:
    own = expected.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in found.state_dict().items())


def test_the_list_fits_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    lines = succeed(capsys, "list").splitlines()
    assert max(map(len, lines)) <= 100
    assert len(lines) == 1 + len(catalogue.catalogue()) + 1, "a line each, and what is scored"
    shown = succeed(capsys, "list", "--scores")
    assert "S3DIS, six folds, all six" in shown
    assert "S3DIS, six folds, all six" not in "".join(lines)


def test_import_of_the_pytorch_release(capsys: pytest.CaptureFixture[str]) -> None:
    model = save_released("w.pth")
    arguments = ("import", "w.pth", "--out", "w.safetensors", "-k", "4", "--quiet")
    parameters = sum(value.numel() for value in model.parameters())
    assert succeed(capsys, *arguments) == (
        f"w.safetensors: resgcn-3 (edge, C 8, k 4), {parameters:,} parameters\n"
        "from w.pth (deep_gcns_torch)\n"
        "not in the file, so as published: "
        "--conv edge, --arch resgcn, --layout torch, --dilation\n"
        "Use it: deepgcn predict SCAN.ply --weights w.safetensors\n"
    )
    found = load_weights(Path("w.safetensors"))
    assert found.config == model.config
    assert found.num_points == 4096
    assert_same(found, model)


def test_imported_weights_have_their_source_s_name(capsys: pytest.CaptureFixture[str]) -> None:
    Path("log").mkdir()
    save_released("log/best.pth.tar")
    shown = succeed(capsys, "import", "log/best.pth.tar", "-k", "4", "--quiet")
    assert shown.startswith("log/best.safetensors: resgcn-3 ")
    assert load_weights(Path("log/best.safetensors")).config.k == 4
    shown = fail(capsys, "import", "log/best.pth.tar", "-k", "3", "--quiet")
    assert "log/best.safetensors: found a file of this name already; give another" in shown
    assert load_weights(Path("log/best.safetensors")).config.k == 4


def test_an_imported_file_of_the_catalogue_is_known(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save_released("w.pth")
    entry = dataclasses.replace(catalogue.PUBLISHED[1], sha256=sha256_of(Path("w.pth")))
    monkeypatch.setattr(catalogue, "PUBLISHED", (entry,))
    shown = succeed(capsys, "import", "w.pth", "-k", "4", "--quiet")
    assert "this is dgcnn-s3dis-area2 of the catalogue: S3DIS without area 2, MIT\n" in shown
    found = read_metadata(Path("w.safetensors"))
    assert found["trained_on"] == "S3DIS without area 2"
    assert (found["test_area"], found["license"], found["source"]) == ("2", "MIT", entry.url)


def test_options_decide_what_no_tensor_tells(capsys: pytest.CaptureFixture[str]) -> None:
    save_released("w.pth")
    shown = succeed(
        capsys,
        *("import", "w.pth", "--out", "w.safetensors", "-k", "3", "--conv", "mr", "--json"),
        *("--arch", "plaingcn", "--layout", "paper", "--no-dilation", "--num-points", "64"),
    )
    result = json.loads(shown)
    assert result["assumed"] == {}
    found = load_weights(Path("w.safetensors"))
    config = found.config
    assert (config.k, config.conv, config.arch) == (3, "mr", "plaingcn")
    assert (config.layout, config.dilation, found.num_points) == ("paper", False, 64)


def test_import_of_the_tensorflow_release(capsys: pytest.CaptureFixture[str]) -> None:
    from tests.weights.test_published import tensorflow_state
    from tests.weights.test_tensorflow import write_bundle

    state = tensorflow_state(3, "edge", "densegcn", classes=13)
    write_bundle(Path("log5/epoch_best.ckpt"), {n: v.float().numpy() for n, v in state.items()})
    Path("log5/log_train.txt").write_text(LOG)
    shown = succeed(capsys, "import", "log5/epoch_best.ckpt.index", "--out", "w.safetensors")
    assert shown.startswith("w.safetensors: densegcn-3 (edge, C 6, k 4), ")
    assert "from log5/epoch_best.ckpt (deep_gcns)\n" in shown
    assert "as published" not in shown  # the log tells everything
    found = load_weights(Path("w.safetensors"))
    assert (found.config.epsilon, found.config.layout, found.num_points) == (0.2, "paper", 512)
    kernel = state["adj_conv_1/weights"][0, 0].t().float()
    assert torch.equal(found.state_dict()["layers.1.mlp.0.linear.weight"], kernel)


def test_a_mismatch_names_tensors_and_shapes(capsys: pytest.CaptureFixture[str]) -> None:
    state = published_state(network())
    state["fusion_block.0.bias"] = torch.zeros(7)
    torch.save(state, "w.pth")
    shown = fail(capsys, "import", "w.pth", "--out", "w.safetensors", "--quiet")
    assert "Error: w.pth: " in shown
    assert "1 tensor does not fit resgcn-3 (edge, C 8, k 16)" in shown
    assert "fusion.linear.bias: found (7,), expected (16,)" in shown
    assert not Path("w.safetensors").exists()


class Code:
    """What an attacker saves: unpickling it makes a folder."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("made",)


def test_files_that_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*arguments: str) -> str:
        return fail(capsys, "import", *arguments, "--quiet")

    torch.save({"state_dict": {"a": torch.zeros(1)}, "x": Code()}, "code.pth")
    assert "its pickle calls" in refused("code.pth", "--out", "w.safetensors")
    assert not Path("made").exists()
    assert "none.pth: found no file" in refused("none.pth", "--out", "w.safetensors")
    torch.save({"conv.weight": torch.zeros(1)}, "other.pth")
    shown = refused("other.pth", "--out", "w.safetensors")
    assert "found 1 tensor of no known network (conv.weight, …)" in shown
    assert "deepgcn weights inspect other.pth" in shown
    save_weights(Path("own.safetensors"), network())
    assert "which need no import" in refused("own.safetensors", "--out", "w.safetensors")
    assert "found the suffix '.pth'" in refused("other.pth", "--out", "w.pth")
    assert "would overwrite its source" in refused("own.safetensors", "--out", "own.safetensors")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_label_nothing(
    value: float, capsys: pytest.CaptureFixture[str]
) -> None:
    model = network()
    model.prediction[1].linear.bias.data[3] = value
    save_weights(Path("own.safetensors"), model)
    torch.save(published_state(model), "w.pth")
    np.savetxt("scan.xyz", np.random.default_rng(0).random((50, 6)))
    message = "prediction.1.linear.bias: found NaN or infinite numbers"
    shown = fail(capsys, "import", "w.pth", "--out", "w.safetensors", "-k", "4", "--quiet")
    assert shown.startswith("Error: w.pth: ")
    assert message in shown
    assert run(["predict", "scan.xyz", "--weights", "own.safetensors", "--quiet"]) == 1
    assert f"own.safetensors: {message}" in capsys.readouterr().err
    assert f"none: own.safetensors: {message}" in " ".join(
        succeed(capsys, "inspect", "own.safetensors").split()
    )
    assert not list(Path().glob("scan.labelled*"))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_exported_and_imported_again(suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    config = ModelConfig(arch="plaingcn", depth=3, width=8, k=2, conv="mr", dilation=False)
    model = network(config)
    save_weights(Path("own.safetensors"), model, metadata={"num_points": "99", "run": "mine"})
    out = f"out{suffix}"
    shown = succeed(
        capsys, "export", "own.safetensors", "--out", out, "--names", "published", "--quiet"
    )
    described = "plaingcn-3 (mr, C 8, k 2)"
    assert shown == f"{out}: {described}\n{out}.README.md: where it comes from\n"
    readme = Path(f"{out}.README.md").read_text()
    assert readme.startswith(f"# {out}\n\n{described}, tensors, as ")
    assert "\n- run: mine\n" in readme
    assert "**layout paper**: this network normalises before the activation" in readme
    shown = succeed(capsys, "import", out, "--out", "again.safetensors", "--quiet")
    assert "as published" not in shown
    found = load_weights(Path("again.safetensors"))
    assert (found.config, found.num_points) == (config, 99)
    assert_same(found, model)


@pytest.mark.parametrize("count", [2, 13])
def test_an_export_keeps_the_classes_of_its_own_data(
    count: int, capsys: pytest.CaptureFixture[str]
) -> None:
    own = {
        "classes": " ".join(f"animal{number}" for number in range(count)),
        "class_colors": " ".join(f"{number}-2-3" for number in range(count)),
    }
    model = network(dataclasses.replace(SMALL, num_classes=count))
    save_weights(Path("own.safetensors"), model, metadata=own)
    succeed(capsys, "export", "own.safetensors", "--out", "out.pth")
    succeed(capsys, "import", "out.pth", "--out", "again.safetensors")
    metadata = read_metadata(Path("again.safetensors"))
    assert {name: metadata[name] for name in own} == own


def test_export_under_our_names(capsys: pytest.CaptureFixture[str]) -> None:
    model = network()
    save_weights(Path("own.safetensors"), model)
    succeed(capsys, "export", "own.safetensors", "--out", "out.safetensors")
    assert_same(load_weights(Path("out.safetensors")), model)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_export_of_the_computation(suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    if suffix == ".onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    save_weights(Path("own.safetensors"), network(), metadata={"num_points": "64"})
    shown = succeed(capsys, "export", "own.safetensors", "--out", f"out{suffix}", "--quiet")
    assert "labels as the network's own: 100.00 %\n" in shown
    readme = Path(f"out{suffix}.README.md").read_text()
    assert "- input: features (1, 64, 9); output: logits (1, 64, 13)\n" in readme
    assert "scaled into [-1, 1]" in readme  # layout torch


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--out", "w.tflite"), "found the suffix '.tflite'"),
        (("--out", "w.onxx"), "Did you mean '.onnx'?"),
        (("--out", "w.pt2", "--names", "own"), "--names: found it for .pt2"),
        (("--out", "w.pth", "--num-points", "64"), "--num-points: found it for .pth"),
        (
            ("--out", "w.pth", "--names", "pub"),
            "found the unknown name 'pub'. Did you mean",
        ),
        (("--out", "w.pt2", "--num-points", "5"), "a block has only 5"),
        (("--out", "own.safetensors"), "would overwrite its source"),
    ],
)
def test_exports_that_cannot_be(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    save_weights(Path("own.safetensors"), network())
    assert message in fail(capsys, "export", "own.safetensors", *arguments, "--quiet")
    assert [path.name for path in Path().iterdir()] == ["own.safetensors"]


def test_onnx_without_its_packages(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save_weights(Path("own.safetensors"), network())
    monkeypatch.setattr(sys, "path", [])  # nothing more can be imported
    monkeypatch.setattr(sys, "path_importer_cache", {})
    for name in [name for name in sys.modules if name.split(".")[0].startswith("onnx")]:
        monkeypatch.delitem(sys.modules, name)
    shown = fail(capsys, "export", "own.safetensors", "--out", "w.onnx", "--quiet")
    assert "found no package onnx, onnxscript, onnxruntime" in shown
    assert "pip install 'deepgcn[onnx]'" in shown


def test_inspect_of_our_own(capsys: pytest.CaptureFixture[str]) -> None:
    save_weights(Path("w.safetensors"), network(), metadata={"run": "mine"})
    shown = " ".join(succeed(capsys, "inspect", "w.safetensors").split())
    assert "names deepgcn network resgcn-3 (edge, C 8, k 4) tensors 44 with " in shown
    assert " run mine " in shown
    assert "classifier.weight 13 × 256 float32" in shown
    assert "fusion.norm.num_batches_tracked scalar int64" in shown


def test_inspect_of_what_has_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    """What is inside the package, and a run; a name of neither is answered with the nearest."""
    found = json.loads(succeed(capsys, "inspect", "indoor", "--json"))
    assert (Path(found["path"]).name, found["release"]) == ("indoor.safetensors", "deepgcn")
    write_tiny_store(Path("data"))
    run_dir = train_tiny_run(Path("data"), Path("runs")).path
    found = json.loads(succeed(capsys, "inspect", run_dir.name, "--json"))
    assert Path(found["path"]).resolve().is_relative_to(run_dir.resolve())
    assert "Did you mean 'indoor'?" in fail(capsys, "inspect", "indor")
    Path("runs").rename("others")
    elsewhere = (run_dir.name, "--runs", "others")
    assert json.loads(succeed(capsys, "inspect", *elsewhere, "--json"))["release"] == "deepgcn"
    succeed(capsys, "export", *elsewhere, "--out", "out.safetensors", "--quiet")
    assert_same(load_weights(Path("out.safetensors")), load_weights(found_in("others")))


def found_in(runs: str) -> Path:
    """Return the best weights of the only run."""
    return next(Path(runs).glob("*/checkpoints/best.safetensors"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-k", "99"), "-k 99: the weights are of resgcn-3 (edge, C 8, k 4) ({}), whose k is 4"),
        (("--arch", "densegcn"), "--arch densegcn: the weights are of resgcn-3"),
        (("-k", "4", "--conv", "mr"), "--conv mr: the weights are of resgcn-3"),
    ],
)
def test_what_our_files_record_cannot_be_given_otherwise(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    save_weights(Path("own.safetensors"), network())
    succeed(capsys, "export", "own.safetensors", "--out", "out.pth", "--quiet")
    for name, release in (("own.safetensors", "deepgcn"), ("out.pth", "deep_gcns_torch")):
        found = json.loads(succeed(capsys, "inspect", name, *arguments, "--json"))
        assert found["network"] is None
        assert message.format(release) in found["problem"]
        found = json.loads(succeed(capsys, "inspect", name, "-k", "4", "--json"))
        assert found["network"] == "resgcn-3 (edge, C 8, k 4)"
    shown = fail(capsys, "import", "out.pth", "--out", "w.safetensors", *arguments, "--quiet")
    assert message.format("deep_gcns_torch") in shown
    assert not Path("w.safetensors").exists()


def test_own_names_in_a_torch_file(capsys: pytest.CaptureFixture[str]) -> None:
    config = dataclasses.replace(SMALL, knn_until=2, rgb=False)
    model = network(config)
    save_weights(Path("own.safetensors"), model)
    succeed(capsys, "export", "own.safetensors", "--out", "w.pth", "--names", "own", "--quiet")
    found = json.loads(succeed(capsys, "inspect", "w.pth", "--json"))
    assert (found["release"], found["network"]) == ("deepgcn", config.label)
    assert "from w.pth (deepgcn)\n" in succeed(capsys, "import", "w.pth", "--quiet")
    again = load_weights(Path("w.safetensors"))
    assert again.config == config
    assert_same(again, model)
    content = torch.load("w.pth", weights_only=True)
    torch.save({**content, "deepgcn_config": json.dumps({"depth": 9999})}, "deep.pth")
    assert "found 44 tensors, expected those of resgcn-9999" in fail(capsys, "import", "deep.pth")


def test_trainings_one_after_the_other_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    first = {"run": "a", "trained_on": "made rooms", "test_area": "0"}
    second = {"run": "b", "step": "7", "trained_on": "data", "started_from": first}
    facts = {"run": "c", "test_area": "0", "started_from": json.dumps(second)}
    save_weights(Path("w.safetensors"), network(), metadata=facts)
    lines = [
        " ".join(line.split()) for line in succeed(capsys, "inspect", "w.safetensors").split("\n")
    ]
    told = ["training 1 run a, trained on made rooms", "training 2 run b, trained on data; step 7"]
    at = lines.index(told[0])
    assert lines[at : at + 3] == [*told, "training 3 run c"]
    assert "test_area none held out" in lines
    assert "{" not in "".join(line for line in lines if not line.startswith("config "))
    succeed(capsys, "export", "w.safetensors", "--out", "out.safetensors", "--quiet")
    readme = Path("out.safetensors.README.md").read_text()
    assert (
        "- training 1: run a, trained on made rooms\n- training 2: run b, trained on data; step 7\n"
        in readme
    )
    assert "- test area: none held out\n" in readme
    assert "{" not in readme


def test_inspect_of_a_release(capsys: pytest.CaptureFixture[str]) -> None:
    save_released("w.pth")
    found = json.loads(succeed(capsys, "inspect", "w.pth", "-k", "4", "--json"))
    assert (found["form"], found["release"]) == ("PyTorch", "deep_gcns_torch")
    assert found["network"] == "resgcn-3 (edge, C 8, k 4)"
    assert found["assumed"]["conv"] == "edge"
    assert found["facts"] == {"epoch": "100", "best_value": "0.5"}
    assert found["tensors"]["module.head.gconv.nn.0.weight"] == {
        "shape": [8, 18, 1, 1],
        "dtype": "float32",
    }


def test_inspect_of_what_makes_no_network(capsys: pytest.CaptureFixture[str]) -> None:
    from tests.weights.test_tensorflow import some_tensors, write_bundle

    write_bundle(Path("other.ckpt"), some_tensors())
    Path("other.ckpt.data-00000-of-00001").unlink()  # only the index is needed
    found = json.loads(succeed(capsys, "inspect", "other.ckpt", "--json"))
    assert (found["form"], found["network"]) == ("TensorFlow", None)
    assert found["tensors"]["adj_conv_0/weights"] == {"shape": [1, 1, 18, 8], "dtype": "float32"}
    assert found["tensors"]["flag"] == {"shape": [2], "dtype": "bool"}
    torch.save({"conv.weight": torch.zeros(2, 3)}, "w.pth")
    shown = " ".join(succeed(capsys, "inspect", "w.pth").split())
    assert "names of no known network network none: w.pth: found 1 tensor of no" in shown
    assert "weights inspect" not in shown


@pytest.mark.slow
def test_dgcnn_of_real_s3dis_labels_real_scans(
    real_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import pipelines
    from pipelines.config import PrepareConfig
    from pipelines.data.s3dis import CLASSES
    from pipelines.data.store import read_rooms
    from pipelines.prepare import prepare

    source = str(real_dir / "dgcnn_s3dis_area1.t7")
    succeed(capsys, "import", source, "--out", "w.safetensors", "--quiet")
    prepare(PrepareConfig(raw=real_dir / "scans_s3dis_layout.zip", data=Path("data"), workers=1))
    room = next(iter(read_rooms(Path("data/area_5.h5"))))
    label, _ = pipelines.segment(pipelines.load_model("w.safetensors"), room.pos, room.color)
    floor, truth = CLASSES.index("floor"), np.asarray(room.label)
    both = np.sum((label == floor) & (truth == floor))
    either = np.sum((label == floor) | (truth == floor))
    assert both / either > 0.8
