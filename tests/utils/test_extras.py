# SPDX-License-Identifier: Apache-2.0
"""If an optional library is missing, every entry point names the pip command instead of a bare "No module named"."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib

import pytest

from hf_tripletclip.utils.extras import EXTRAS, explained

# A single process, because it imports torch. Every optional library is blocked, and each entry point is called.
TRY = """
import contextlib, importlib, importlib.abc, importlib.util, io, json, os, sys, traceback
from hf_tripletclip.utils.extras import EXTRAS

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in EXTRAS:
            raise ModuleNotFoundError(f"No module named {name.partition('.')[0]!r}", name=name.partition(".")[0])

sys.meta_path.insert(0, Blocked())
found_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name.partition(".")[0] in EXTRAS else found_spec(name, *more)

from hf_tripletclip.cli import main
folder = sys.argv[1]
doors = {}

def stage(kind, name, method="setup", **options):
    from hf_tripletclip.generation.registry import get_stage
    getattr(get_stage(kind, name, options), method)()

def adapter():
    from hf_tripletclip.evaluation import load_clip_like
    load_clip_like(folder)

def imported(module, name):
    return lambda: getattr(importlib.import_module(module), name)

COMMANDS = {
    "generate --help": ["generate", "--help"],
    "generate": ["generate", "--output", folder + "/made"],
    "report": ["report", folder, "--output", folder + "/page"],
    "demo": ["demo", "x"],
    "validate": ["validate", "scenes"],
    "evaluate an adapter": ["evaluate", folder, "--benchmarks", "triplets", "--data", "scenes"],
}
CALLS = {
    "generation.generate": imported("hf_tripletclip.generation", "generate"),
    "generation.run": imported("hf_tripletclip.generation.run", "generate"),
    "generation.engine": imported("hf_tripletclip.generation.engine", "Job"),
    "generation.local": imported("hf_tripletclip.generation.local", "LocalExecutor"),
    "generation.cluster": imported("hf_tripletclip.generation.cluster", "submit"),
    "checkpoints.TripletCLIPPeftModel": imported("hf_tripletclip.checkpoints", "TripletCLIPPeftModel"),
    "checkpoints.peft_model": imported("hf_tripletclip.checkpoints.peft_model", "TripletCLIPPeftModel"),
    "demo.launch": lambda: __import__("hf_tripletclip.demo.app", fromlist=["x"]).require_gradio(),
    "rules": lambda: stage("captions", "rules"),
    "diffusers": lambda: stage("images", "diffusers", model=folder),
    "images of scenes": lambda: stage("images", "scenes"),
    "leakage": lambda: __import__("hf_tripletclip.evaluation.checks.leakage", fromlist=["x"]).image_hashes([]),
    "concepts": lambda: __import__("hf_tripletclip.generation.concepts", fromlist=["x"]).concept_coverage(["a dog"]),
}
for name, argv in COMMANDS.items():
    err, out = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(out):
        try:
            status = main(argv)
        except SystemExit as end:  # after --help
            status = end.code
            err.write(" ".join(out.getvalue().split()) if status == 0 else f"TRACEBACK {end!r}")
        except BaseException as error:
            err.write("TRACEBACK " + repr(error))
    doors[name] = err.getvalue()
for name, call in CALLS.items():
    try:
        call()
        doors[name] = "no error"
    except ImportError as error:
        doors[name] = str(error)
    except BaseException as error:
        doors[name] = "TRACEBACK " + repr(error)
print(json.dumps(doors))
"""


def test_every_entry_point_names_the_command(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "none"}')
    (tmp_path / "adapter_model.safetensors").write_text("")
    done = subprocess.run([sys.executable, "-c", TRY, str(tmp_path)], capture_output=True, text=True, timeout=300)
    doors = json.loads(done.stdout.splitlines()[-1])
    assert len(doors) == 19, done.stderr
    silent = {door: told for door, told in doors.items() if "pip install" not in told or "TRACEBACK" in told}
    assert silent == {}
    assert '"hf_tripletclip[generation]"' in doors["generate --help"]


def test_the_named_extras_exist(pytestconfig):
    project = tomllib.loads((pytestconfig.rootpath / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for library, (_, package) in EXTRAS.items():
        if package.startswith("hf_tripletclip"):
            needed = " ".join(extras[package.partition("[")[2].rstrip("]")])
            distribution = {"sklearn": "scikit-learn"}.get(library, library)
            assert distribution in needed or library == "loguru", library


@pytest.mark.parametrize("name", ["datatrove", "datatrove.executor.base"])
def test_an_error_is_explained_once(name):
    told = explained(ImportError("No module named 'x'", name=name))
    assert str(told).startswith("datatrove is not installed, which is needed for making datasets: pip install")
    assert explained(told) is told


@pytest.mark.parametrize(
    "error", [ImportError("a"), ImportError("no", name="hf_tripletclip.no"), ImportError("b", name="os")]
)
def test_other_errors_are_unchanged(error):
    assert explained(error) is error
