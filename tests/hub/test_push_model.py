# SPDX-License-Identifier: Apache-2.0
"""Models and adapters uploaded to a Hub on this machine, and back."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from hf_tripletclip import TripletCLIPModel
from tests.hub import FAKE, scores, small_model, write_run
from tests.loopback_hub import LoopbackHub, run_command, run_python

OTHER = "hf_" + "Z9y8X7w6" * 4  # of somebody who may write to `other` only
HEAD = """
import sys
from pathlib import Path
from hf_tripletclip import TripletCLIPModel, load_processor, push_model
from hf_tripletclip.checkpoints.load import load_clip_like
from hf_tripletclip.push import push
from tests.hub import adapted, scores, small_model, small_processor

def failing(call):
    try:
        call()
    except (OSError, ValueError) as error:
        print(type(error).__name__, " ".join(str(error).split()))
    else:
        print("no error")
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "base"
    write_run(folder)
    write_run(folder.with_name("lora"), adapter_of=folder)
    return folder


@pytest.fixture
def owned(hub) -> LoopbackHub:
    """A Hub whose `user` is who the tests are."""
    hub.accounts = {FAKE: {"user"}, OTHER: {"other"}}
    return hub


def talk(code: str, hub: LoopbackHub | None, home: Path, **env: str | None) -> list[str]:
    """Lines that code prints; its token never is among what it says."""
    done = run_python(HEAD + code, hub, home, **{"HF_TOKEN": FAKE, **env})
    for token in (FAKE, OTHER):
        assert token not in done.stdout + done.stderr
    return done.stdout.splitlines()


def test_models_and_adapters_there_and_back(owned, base, tmp_path):
    """Folders, private, with the base's new name; and what opens them, here and without this package."""
    code = f"""
print(push({str(base)!r}, "user/base", private=True))
print(push({str(base.with_name("lora"))!r}, "user/lora", base_model="user/base", private=True))
model = TripletCLIPModel.from_pretrained("user/base")
print(scores(model.eval()), load_processor("user/base").tokenizer.model_max_length)
adapted_model, processor = load_clip_like("user/lora")
print(scores(adapted_model.eval()))
model.push_to_hub("user/again", commit_message="Again", private=True)
failing(lambda: push({str(base)!r}, "user/lora"))
failing(lambda: push({str(base.with_name("lora"))!r}, "user/again", base_model="user/base"))
"""
    lines = talk(code, owned, tmp_path / "home")
    assert lines[:2] == [f"{owned.endpoint}/user/base", f"{owned.endpoint}/user/lora"]
    expected = scores(TripletCLIPModel.from_pretrained(base).eval())
    with_adapter = scores(adapted_as_saved(base))
    assert lines[2] == f"{expected} 32"
    assert lines[3] == str(with_adapter) != str(expected)
    assert lines[4].startswith("ValueError user/lora holds an adapter already (adapter_config.json), and this is a m")
    assert lines[5].startswith("ValueError user/again holds a model already (config.json), and this is an adapter:")
    assert all(owned.repos["model", f"user/{name}"].private for name in ("base", "lora", "again"))
    files = owned.files("model", "user/lora")
    config = json.loads(files["adapter_config.json"])
    assert config["base_model_name_or_path"] == "user/base"
    assert json.loads((base.with_name("lora") / "adapter_config.json").read_text())["base_model_name_or_path"] == str(
        base
    )
    for name in ("user/base", "user/lora", "user/again"):
        for path, content in owned.files("model", name).items():
            assert FAKE.encode() not in content, path
            assert str(base.parent).encode() not in content, path
            assert "checkpoint" not in path
    card = ModelCard(owned.files("model", "user/again")["README.md"].decode())
    assert "user/again" in card.text
    assert "More Information Needed" not in card.text
    assert card.data.pipeline_tag == "zero-shot-image-classification"
    assert (
        owned.files("model", "user/again")["model.safetensors"]
        == owned.files("model", "user/base")["model.safetensors"]
    )
    code = """
import sys
sys.modules["hf_tripletclip"] = None
import torch
from peft import PeftModel
from transformers import AutoModel, AutoTokenizer, CLIPModel
pixels = torch.linspace(-1, 1, 2 * 3 * 16 * 16).reshape(2, 3, 16, 16)
inputs = AutoTokenizer.from_pretrained("user/lora")(["a black dog", "a white cat"], return_tensors="pt", padding=True)
with torch.no_grad():
    for model in (
        AutoModel.from_pretrained("user/base"),
        PeftModel.from_pretrained(CLIPModel.from_pretrained("user/base"), "user/lora"),
    ):
        output = model.eval()(pixel_values=pixels, **inputs)
        print((output.text_embeds @ output.image_embeds.T).tolist())
"""
    plain = run_python(code, owned, tmp_path / "other home", HF_TOKEN=FAKE).stdout.splitlines()
    for line, logits, scale in zip(plain, (expected, with_adapter), (2.6592, 2.0), strict=True):
        cosines = [value for row in json.loads(line) for value in row]
        mine = [row[i] for i in range(2) for row in logits]  # logits are per image
        assert cosines == pytest.approx([value / 2.718281828**scale for value in mine], abs=1e-5)


def adapted_as_saved(base: Path):
    from hf_tripletclip.checkpoints.load import load_clip_like

    return load_clip_like(base.with_name("lora"))[0].eval()


def test_rights_branches_and_pull_requests(owned, base, tmp_path):
    owned.add("model", "other/clip", {"README.md": b"# Theirs, by hand\n", "LICENSE": b"ours"})
    owned.add("model", "other/hidden", {"README.md": b"# Hidden\n"})
    owned.repos["model", "other/hidden"].private = True
    code = f"""
model, folder = small_model(3), {str(base)!r}
print(push_model(model, "user/memory", processor=small_processor(), revision="v1", commit_message="First"))
print(push_model(model, "user/memory", revision="v1"))  # the branch is there
print(push_model(model, "other/clip", create_pr=True))
print(push_model(folder, "other/clip", revision="refs/pr/1"))
print(scores(TripletCLIPModel.from_pretrained("user/memory", revision="v1").eval()))
failing(lambda: push(folder, "other/clip"))
failing(lambda: push(folder, "other/hidden", revision="v2"))
failing(lambda: push(folder, "other/new"))
failing(lambda: push(folder, "user/memory", revision="refs/pr/9"))
failing(lambda: push(folder, "user/memory", token=False))
failing(lambda: push(folder, "user/memory", token={OTHER[:-1]!r}))
failing(lambda: push(folder, "user/memory", token="odd\\x00token"))
failing(lambda: push_model(adapted(model), "user/lora", base_model="user/nowhere"))
failing(lambda: push_model(adapted(model), "user/lora"))
failing(lambda: push_model(adapted(model), "user/lora", base_model="other/hidden"))
push_model(model, "user/whole")
print(push_model(adapted(model), "user/lora", base_model="user/whole", processor=small_processor()))
"""
    lines = talk(code, owned, tmp_path / "home")
    at = owned.endpoint
    assert lines[:4] == [
        f"{at}/user/memory/tree/v1",
        f"{at}/user/memory/tree/v1",
        f"{at}/other/clip/discussions/1",
        f"{at}/other/clip/discussions/1",
    ]
    assert owned.files("model", "user/memory") == {}
    branch = owned.files("model", "user/memory", "v1")
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= branch.keys()
    # Theirs stays while ours is a generated one; the folder's own card replaces it.
    commits = owned.repos["model", "other/clip"].commits
    opened = next(files for files in commits.values() if "model.safetensors" in files)
    assert opened["README.md"] == b"# Theirs, by hand\n"
    assert b"# A card" in owned.files("model", "other/clip", "refs/pr/1")["README.md"]
    assert owned.files("model", "other/clip") == {"README.md": b"# Theirs, by hand\n", "LICENSE": b"ours"}
    assert lines[4] == str(scores(small_model(3)))
    refused = lines[5:15]
    rights = "the token may not write there (You don't have the rights to write to"
    assert refused[0].startswith(f"OSError The Hub refuses other/clip: {rights} other/clip). Use one with write acc")
    assert refused[1].startswith(f"OSError The Hub refuses other/hidden: {rights}")
    assert refused[2].startswith(f"OSError The Hub refuses other/new: {rights}")
    assert refused[3].startswith("OSError The Hub refuses user/memory: it has no revision 'refs/pr/9'.")
    assert refused[4].startswith("OSError The Hub refuses user/memory: there is no token. Log in with `hf auth login`")
    assert refused[5].startswith("OSError The Hub refuses user/memory: it does not accept the token (Invalid cred")
    assert refused[6].startswith("OSError The Hub cannot be reached to take user/memory: ")
    assert "odd" not in refused[6]
    assert "user/nowhere, which is no model on the Hub that you can see: push its base first" in refused[7]
    assert "names no base model: push its base first" in refused[8]
    assert "is of other/hidden, which is no model on the Hub that you can see" in refused[9]
    assert lines[15] == f"{at}/user/lora"
    files = owned.files("model", "user/lora")
    assert {"adapter_config.json", "adapter_model.safetensors", "logit_scale.safetensors", "tokenizer.json"} <= (
        files.keys()
    )
    assert "config.json" not in files
    assert "More Information Needed" not in files["README.md"].decode()


@pytest.mark.slow
def test_a_model_put_to_the_hub_by_its_own_method(owned, base, tmp_path):
    """The method of transformers with our card, and that of peft with its own."""
    owned.add("model", "user/carded", {"README.md": b"---\nlicense: mit\n---\n\n# By hand\n"})
    code = f"""
model = TripletCLIPModel.from_pretrained({str(base)!r})
commit = model.push_to_hub("user/mine", commit_message="One", commit_description="more", tags="shapes")
print(type(commit).__name__, commit.commit_message, commit.commit_description)
model.push_to_hub("user/carded", tags=["shapes"], max_shard_size="100KB")
model.push_to_hub("user/carded")
commit = model.push_to_hub("user/mine", create_pr=True, revision=None)
print(commit.pr_url)
inside = adapted(model)
inside.peft_config["default"].base_model_name_or_path = "user/mine"
inside.push_to_hub("user/lora")
print(scores(inside))
"""
    lines = talk(code, owned, tmp_path / "home")
    assert lines[0] == "CommitInfo One more"
    assert lines[1] == f"{owned.endpoint}/user/mine/discussions/1"
    card = ModelCard(owned.files("model", "user/mine")["README.md"].decode())
    assert "shapes" in card.data.tags
    assert "user/mine" in card.text
    carded = owned.files("model", "user/carded")
    kept = ModelCard(carded["README.md"].decode())
    assert (kept.data.license, kept.data.tags) == ("mit", ["shapes"])
    assert "# By hand" in kept.text
    assert "model.safetensors" in carded
    assert not [name for name in carded if name.startswith("model-00") or name.endswith("index.json")]  # replaced
    code = """
import sys
sys.modules["hf_tripletclip"] = None
from peft import PeftModel
from transformers import CLIPModel
model = PeftModel.from_pretrained(CLIPModel.from_pretrained("user/mine"), "user/lora")
print(len(model.peft_config))
"""
    assert run_python(code, owned, tmp_path / "b", HF_TOKEN=FAKE).stdout == "1\n"


def test_the_command(owned, base, tmp_path):
    command = [sys.executable, "-m", "hf_tripletclip.cli", "push", str(base), "user/clip", "--private"]
    flags = ["--commit_message", "By hand", "--revision", "v1", "--license", "mit"]
    done = run_command([*command, *flags], owned, tmp_path, HF_TOKEN=FAKE)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"pushed to {owned.endpoint}/user/clip/tree/v1\n"
    assert owned.repos["model", "user/clip"].private
    assert "model.safetensors" in owned.files("model", "user/clip", "v1")
    assert ModelCard(owned.files("model", "user/clip", "v1")["README.md"].decode()).data.license == "mit"
    assert FAKE not in done.stderr


@pytest.mark.slow
def test_an_interrupted_upload_goes_on_and_a_hub_that_is_not_there(base, tmp_path):
    lora = str(base.with_name("lora"))
    with LoopbackHub() as hub:
        hub.add("model", "user/base", base)
        command = [sys.executable, "-m", "hf_tripletclip.cli", "push", lora, "user/lora", "--base_model", "user/base"]
        hub.fail_after = 1
        failed = run_command(command, hub, tmp_path)
        assert failed.returncode == 1
        assert "Upload quota exceeded" in failed.stderr
        assert "The same command continues the upload." in failed.stderr
        assert hub.files("model", "user/lora") == {}
        hub.fail_after = None
        there = {f"/lfs/{oid}" for oid in hub.objects}
        assert len(there) == 1
        hub.log.clear()
        assert run_command(command, hub, tmp_path).returncode == 0
        assert set(hub.requests("PUT")) == {f"/lfs/{oid}" for oid in hub.objects} - there
        assert "adapter_model.safetensors" in hub.files("model", "user/lora")
    failed = run_command(command, None, tmp_path)
    assert failed.returncode == 1
    assert "error: The Hub cannot be reached to look for user/base" in failed.stderr
    assert "Traceback" not in failed.stderr
