# SPDX-License-Identifier: Apache-2.0
"""The command `tripletclip`, as users start it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoProcessor, CLIPModel

import hf_tripletclip
from hf_tripletclip import TripletCLIPModel
from hf_tripletclip.cli import main, run_reporting_errors
from tests.checkpoints import BASE, small_processor, write_published
from tests.loopback_hub import LoopbackHub, run_command, run_python

REPO = "TripletCLIP/CC12M_TripletCLIP_ViTB12"


@pytest.fixture
def source(tmp_path) -> Path:
    write_published(tmp_path / "source")
    return tmp_path / "source"


def tripletclip(*arguments: object, hub: LoopbackHub | None, home: Path, **env: str) -> subprocess.CompletedProcess:
    return run_command([sys.executable, "-m", "hf_tripletclip.cli", *map(str, arguments)], hub, home, **env)


def test_convert_from_the_hub(hub, source, tmp_path):
    hub.add("model", REPO, source, revision="v2")
    small_processor().save_pretrained(tmp_path / "base")
    hub.add("model", BASE, tmp_path / "base")
    target = tmp_path / "target"
    arguments = "convert", REPO, target, "--revision", "v2", "--logit-scale", 2.5
    done = tripletclip(*arguments, hub=hub, home=tmp_path / "home")
    assert (done.returncode, done.stdout) == (0, f"wrote {target}\n"), done.stderr
    model, info = CLIPModel.from_pretrained(target, output_loading_info=True)
    assert not any(info.values())
    assert model.logit_scale.item() == 2.5
    assert AutoProcessor.from_pretrained(target).tokenizer.get_vocab() == small_processor().tokenizer.get_vocab()


def test_errors_are_one_message_unless_debugging(hub, tmp_path):
    for env in {}, {"TRIPLETCLIP_DEBUG": "1"}:
        done = tripletclip("convert", REPO, tmp_path / "target", hub=hub, home=tmp_path / "home", **env)
        assert done.returncode == 1
        assert done.stdout == ""
        assert ("Traceback" in done.stderr) == bool(env)
        assert f"{REPO} is not a local folder" in done.stderr
        assert done.stderr.startswith("error: ") != bool(env)
    assert not (tmp_path / "target").exists()


def test_convert_refuses_a_target_with_files_and_overwrites_when_told(source, tmp_path, capsys):
    target = tmp_path / "target"
    target.mkdir()
    (target / "mine").touch()
    arguments = ["convert", str(source), str(target), "--no-processor"]
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        f"error: {target} exists and is not an empty directory: name another, or replace it with `overwrite` "
        "(`--overwrite`).\n"
    )
    assert main([*arguments, "--overwrite"]) == 0
    assert {path.name for path in target.iterdir()} == {"config.json", "model.safetensors"}


def test_convert_takes_a_processor(source, tmp_path):
    small_processor().save_pretrained(tmp_path / "processor")
    target = tmp_path / "target"
    assert main(["convert", str(source), str(target), "--processor", str(tmp_path / "processor")]) == 0
    assert AutoProcessor.from_pretrained(target)


def test_convert_reports_a_broken_file_and_a_logit_scale_too_many(source, tmp_path, capsys):
    TripletCLIPModel.from_pretrained(source, logit_scale=1.0).save_pretrained(tmp_path / "clip")
    weights = source / "text-encoder" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    target = str(tmp_path / "target")
    capsys.readouterr()
    assert main(["convert", str(source), target, "--no-processor"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: text-encoder/model.safetensors of")
    assert error.count("\n") == 1
    assert main(["convert", str(tmp_path / "clip"), target, "--no-processor", "--logit-scale", "1"]) == 1
    assert "logit_scale" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["convert"],
        ["convert", "a"],
        ["convert", "a", "b", "--logit-scale", "x"],
        ["convert", "a", "b", "--no-processor", "--processor", "c"],
        ["nonsense"],
    ],
)
def test_wrong_usage_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "usage: tripletclip" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["evaluate", "--benchmarks", "triplets"], "error: name a model: tripletclip evaluate MODEL "),
        (["evaluate", "m", "--benchmarks", "cocoa"], "error: unknown benchmark 'cocoa'; there are sugarcrepe, "),
        (["evaluate", "m", "--protocol", "lax", "--benchmarks", "triplets"], "`protocol` is 'lax'"),
        (["finetune"], "one of finetune_full, finetune_lora, finetune_lora_scenes\n"),
        (["train", "--config", "scene"], "There is no configuration 'scene': give a YAML file, or one of "),
        (["report", "no/such/result.json"], "error: there is no evaluation result no/such/result.json"),
    ],
)
def test_commands_that_read_their_flags_themselves(argv, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(argv) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("command", ["train", "generate", "evaluate", "report"])
def test_their_help_is_theirs(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert "usage:" in shown
    assert {
        "train": "--objective",
        "generate": "--neg_captions",
        "evaluate": "evaluate MODEL [MODEL ...] ",
        "report": "RESULT",
    }[command] in shown


def test_help_and_version_import_nothing_heavy(tmp_path):
    code = """
import sys
from hf_tripletclip.cli import main
import hf_tripletclip.evaluation
for arguments in ["--help"], ["convert", "--help"], ["--version"]:
    try:
        main(arguments)
    except SystemExit as stopped:
        assert stopped.code == 0
assert not {"torch", "transformers", "datasets"} & sys.modules.keys()
"""
    out = run_python(code, None, tmp_path).stdout
    assert "convert" in out
    assert "--logit_scale" in out
    assert out.endswith(f"tripletclip {hf_tripletclip.__version__}\n")


def test_the_console_script(tmp_path):
    script = Path(sys.executable).parent / "tripletclip"
    if not script.exists():
        pytest.skip("the package is not installed with its script")
    done = run_command([script, "--version"], None, tmp_path)
    assert (done.returncode, done.stdout) == (0, f"tripletclip {hf_tripletclip.__version__}\n")


@pytest.mark.parametrize(
    ("error", "status"), [(OSError, 1), (ValueError, 1), (ImportError, 1), (KeyboardInterrupt, 130)]
)
def test_exit_status_of_errors(error, status, capsys, monkeypatch):
    monkeypatch.delenv("TRIPLETCLIP_DEBUG", raising=False)

    def fail():
        raise error("the reason")

    assert run_reporting_errors(fail) == status
    assert capsys.readouterr().err == ("interrupted\n" if status == 130 else "error: the reason\n")


def test_errors_of_the_program_are_not_hidden():
    with pytest.raises(ZeroDivisionError):
        run_reporting_errors(lambda: 1 / 0)
    assert run_reporting_errors(lambda: None) == 0


def test_too_little_memory_is_one_message(capsys):
    class OutOfMemoryError(RuntimeError):  # as torch calls its own
        pass

    def run() -> None:
        raise OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    assert run_reporting_errors(run) == 1
    assert "lower the batch size" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error",
    [
        Exception("No space left on device (os error 28)"),
        RuntimeError("PytorchStreamWriter failed writing file data/0"),
    ],
)
def test_a_full_disk_is_one_message_whatever_raises_it(capsys, error):
    def run() -> None:
        raise error

    assert run_reporting_errors(run) == 1
    assert capsys.readouterr().err == f"error: a file could not be written or read: {error}\n"
    with pytest.raises(RuntimeError, match="another"):
        run_reporting_errors(lambda: (_ for _ in ()).throw(RuntimeError("another")))


def test_git_ignores_what_the_commands_write_by_default():
    from hf_tripletclip.evaluation.arguments import EvaluationArguments
    from hf_tripletclip.generation.arguments import GenerationArguments

    ignored = (Path(__file__).parents[1] / ".gitignore").read_text().split()
    written = {GenerationArguments().output, EvaluationArguments().output}
    for module in ("cli.py", "evaluation/report/arguments.py"):
        source = (Path(hf_tripletclip.__file__).parent / module).read_text()
        written |= set(re.findall(r'"--output", default="([^"]+)"', source))
    assert len(written) >= 5
    for name in written:
        assert f"/{name}" in ignored or f"/{name}/" in ignored, name
