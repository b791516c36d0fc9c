"""``tinygrad-edu check``: what it prints, and its exit status."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tinygrad_edu.check.command import load_mine
from tinygrad_edu.cli import app, main
from tinygrad_edu.errors import ConfigError

GOOD = """
from tinygrad_edu.backend import namespace, ones, zeros
from tinygrad_edu.layers import Layer, Parameter


class LayerNorm(Layer):
    def __init__(self, dim, eps=1e-5):
        super().__init__()
        self.weight, self.bias, self.eps = Parameter(ones(dim)), Parameter(zeros(dim)), eps

    def forward(self, x):
        mean = x.mean(axis=-1, keepdims=True)
        rstd = 1 / namespace(x).sqrt(x.var(axis=-1, keepdims=True) + self.eps)
        xhat = (x - mean) * rstd
        self.save(xhat, rstd)
        return xhat * self.weight.data + self.bias.data

    def backward(self, dy):
        xhat, rstd = self.saved()
        rows = tuple(range(dy.ndim - 1))
        self.weight.accumulate((dy * xhat).sum(axis=rows))
        self.bias.accumulate(dy.sum(axis=rows))
        dxhat = dy * self.weight.data
        dx = dxhat - dxhat.mean(axis=-1, keepdims=True)
        dx = dx - xhat * (dxhat * xhat).mean(axis=-1, keepdims=True)
        return dx * rstd
"""


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["check", *arguments], env={"COLUMNS": "140"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def write(folder: Path, text: str, name: str = "my_norm.py") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_one_layer() -> None:
    status, output = run("LayerNorm", "--no-torch")
    assert status == 0
    assert [line.split("  ")[0] for line in output.splitlines()] == [
        "LayerNorm", "LayerNorm (eps=0.5)", "LayerNorm (one channel, eps=0.5)", "3 checks, all is right",
    ]  # fmt: skip


def test_one_op() -> None:
    assert run("softmax", "--no-torch")[0] == 0


def test_verbose_shows_the_numbers() -> None:
    _, output = run("Tanh", "--no-torch", "--verbose")
    assert "yours" in output and "numeric" in output


def test_a_class_of_ones_own(tmp_path: Path) -> None:
    assert run("LayerNorm", "--no-torch", "--mine", write(tmp_path, GOOD))[0] == 0


def test_a_class_of_ones_own_that_is_wrong(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    path = write(tmp_path, GOOD.replace("dxhat - dxhat.mean(axis=-1, keepdims=True)", "dxhat"))
    status, output = run("LayerNorm", "--torch", "--mine", path)
    assert status == 1
    assert "LayerNorm   forward ok   backward WRONG in dx   (weight, bias ok)" in output
    assert "Numeric and torch agree: your forward is right, your backward is not." in output
    assert "The error is constant along `channel`: a mean over that axis is missing." in output
    assert output.endswith("3 checks, 3 are wrong\n")


def test_functions_of_ones_own(tmp_path: Path) -> None:
    right = "import numpy as np\ndef tanh(x): return np.tanh(x)\ndef tanh_backward(dy, y): return dy * (1 - y * y)\n"
    assert run("tanh", "--no-torch", "--mine", write(tmp_path, right))[0] == 0
    status, output = run("tanh", "--no-torch", "--mine", write(tmp_path, right.replace("1 - y * y", "1 - y")))
    assert status == 1
    assert "backward WRONG in dx" in output


def test_a_forward_that_raises_names_the_line(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD.replace("mean = x.mean(axis=-1, keepdims=True)", "mean = x.avg()"))
    status, output = run("LayerNorm", "--no-torch", "--mine", path)
    assert status == 1
    assert "LayerNorm   forward FAILED" in output
    assert "AttributeError: 'numpy.ndarray' object has no attribute 'avg' (line 12: mean = x.avg())" in output


@pytest.mark.parametrize(
    "text, says",
    [
        ("class LayerNorm(:\n    pass\n", r"my_norm.py, line 1: invalid syntax: class LayerNorm\(:"),
        ("import numpy\nnumpy.nothing()\n", r"does not run: AttributeError: .*nothing.* \(line 2: numpy.nothing\(\)\)"),
        ("class LayerNrom: pass\n", "defines no LayerNorm. Did you mean 'LayerNrom'?"),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_mine(Path(write(tmp_path, text)), {"LayerNorm"})


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--mine: there is no file .*none.py"):
        load_mine(tmp_path / "none.py", {"LayerNorm"})


def test_names_that_are_not_there() -> None:
    with pytest.raises(ConfigError, match="no layer, loss or op named 'LayerNrom'. Did you mean 'LayerNorm'?"):
        run("LayerNrom")
    with pytest.raises(ConfigError, match="--mine needs the name of one layer"):
        run("all", "--mine", "x.py")


def test_an_error_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["tinygrad-edu", "check", "LayerNrom"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 1
    assert capsys.readouterr().err.startswith("error: check: there is no layer, loss or op named 'LayerNrom'.")


def test_torch_asked_for_and_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "torch" else find(name, *rest))
    with pytest.raises(ConfigError, match="--torch was given, but torch is not installed"):
        run("Tanh", "--torch")
    assert run("Tanh")[0] == 0


def test_without_torch_it_says_that_the_forward_was_not_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    says = "whether that forward is the right function was not checked"
    path = write(tmp_path, GOOD)
    assert says not in run("LayerNorm", "--no-torch", "--mine", path)[1]
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "torch" else find(name, *rest))
    status, output = run("LayerNorm", "--mine", path)
    assert status == 0
    assert says in " ".join(output.split())
    assert says not in " ".join(run("LayerNorm")[1].split())


def test_a_missing_method_is_named(tmp_path: Path) -> None:
    status, output = run("LayerNorm", "--no-torch", "--mine", write(tmp_path, GOOD.replace("def backward", "def back")))
    assert status == 1
    assert "LayerNorm   backward FAILED\n  LayerNorm has no method named backward" in output


def test_all() -> None:
    status, output = run("all", "--no-torch")
    assert status == 0
    assert "TransformerBlock (post-norm)" in output and "attention (causal)" in output
    assert output.splitlines()[-1].endswith("checks, all is right")
