# SPDX-License-Identifier: Apache-2.0
"""A `PeftModel` of a dual encoder. This module needs peft."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import CommitInfo
from torch import nn

from hf_tripletclip.hub.model_push import upload_model
from hf_tripletclip.hub.repository import Destination
from hf_tripletclip.layouts.adapters import read_scale, scale_of, set_scale, write_tensors
from hf_tripletclip.layouts.files import LOGIT_SCALE_FILE
from hf_tripletclip.utils.extras import optional_imports

with optional_imports():
    from peft import PeftConfig, PeftModel

Scale = dict[str, torch.Tensor]  # `logit_scale`, and `logit_bias` if the model has one


class TripletCLIPPeftModel(PeftModel):
    r"""
    A `PeftModel` of a CLIP, SigLIP or another dual encoder whose adapters keep their `logit_scale`, and the
    `logit_bias` of a SigLIP.

    peft saves modules, and `logit_scale` is a bare parameter: if it was trained with an adapter, here
    `save_pretrained` writes it beside the adapter, to `logit_scale.safetensors`, and `from_pretrained` and
    `load_adapter` read it. The directory stays a standard peft one, which plain `PeftModel.from_pretrained` opens,
    with the base's scale then. Each of several adapters has its own scale, that of the base if it was not trained;
    `disable_adapter` leaves the active one's in place.

    Args:
        model ([`TripletCLIPModel`], [`~transformers.SiglipModel`], ...): The model to adapt; it is changed in place.
        peft_config (`peft.PeftConfig`): Such as a `peft.LoraConfig`; if it names no base model, it gets the model's
            name.
        adapter_name (`str`, defaults to `"default"`): The name of the adapter.
        kwargs: As of `peft.PeftModel`.

    Raises:
        TypeError: The model has no `logit_scale`.

    Example:

    ```python
    >>> from peft import LoraConfig

    >>> from hf_tripletclip import TripletCLIPModel
    >>> from hf_tripletclip.checkpoints import TripletCLIPPeftModel

    >>> base = TripletCLIPModel.from_pretrained("openai/clip-vit-base-patch32")
    >>> model = TripletCLIPPeftModel(base, LoraConfig(target_modules=["q_proj", "v_proj"]))
    >>> base.logit_scale.requires_grad_(True)
    >>> ...
    >>> model.save_pretrained("adapter")

    >>> base = TripletCLIPModel.from_pretrained("openai/clip-vit-base-patch32")
    >>> model = TripletCLIPPeftModel.from_pretrained(base, "adapter")
    ```"""

    keeps_logit_scale = True  # which peft's own class does not

    def __init__(
        self, model: nn.Module, peft_config: PeftConfig, adapter_name: str = "default", **kwargs: Any
    ) -> None:
        if not isinstance(getattr(model, "logit_scale", None), nn.Parameter):
            raise TypeError(
                f"`model` is a {type(model).__name__}, which has no `logit_scale`: give a CLIP or a SigLIP."
            )
        if peft_config.base_model_name_or_path is None:
            core: Any = model
            peft_config.base_model_name_or_path = core.name_or_path or None
        super().__init__(model, peft_config, adapter_name, **kwargs)
        self._base_scale = self._copied_scale()
        self._other_scales: dict[str, Scale] = {}  # of adapters that are not active

    def save_pretrained(  # type: ignore[override]
        self,
        save_directory: str | os.PathLike[str],
        safe_serialization: bool = True,
        selected_adapters: Sequence[str] | None = None,
        save_embedding_layers: str | bool = "auto",
        is_main_process: bool = True,
        **kwargs: Any,
    ) -> None:
        """
        Save adapters as `peft.PeftModel.save_pretrained` does, and beside each its `logit_scale` if that trains or
        is not the base's.
        """
        names = list(self.peft_config if selected_adapters is None else selected_adapters)
        with warnings.catch_warnings():
            # peft compares `vocab_size` with the base's config's, and that of a CLIP has none.
            warnings.filterwarnings("ignore", "Could not find a config file in")
            super().save_pretrained(
                os.fspath(save_directory),
                safe_serialization=safe_serialization,
                selected_adapters=names,
                save_embedding_layers=save_embedding_layers,
                is_main_process=is_main_process,
                **kwargs,
            )
        if not is_main_process:
            return
        for name in names:
            folder = Path(save_directory) if name == "default" else Path(save_directory) / name
            scale = self._scale_of(name)
            trains = any(value.requires_grad for value in scale_of(self.get_base_model()).values())
            if trains or any(not torch.equal(value, self._base_scale[of].to(value)) for of, value in scale.items()):
                write_tensors(scale, folder)
            else:
                (folder / LOGIT_SCALE_FILE).unlink(missing_ok=True)  # of what was saved there before

    def _get_base_model_class(self, is_prompt_tuning: bool = False) -> type:
        # `adapter_config.json` names it: peft opens that of transformers without this package (`AutoPeftModel`).
        own: type = super()._get_base_model_class(is_prompt_tuning)
        return next((kind for kind in own.__mro__ if kind.__module__.startswith("transformers.")), own)

    def load_adapter(self, model_id: str | os.PathLike[str], adapter_name: str, *args: Any, **kwargs: Any) -> Any:
        """
        Load an adapter as `peft.PeftModel.load_adapter` does, with the `logit_scale` beside it.

        Raises:
            ValueError: `logit_scale.safetensors` holds no scale.
        """
        loaded = super().load_adapter(model_id, adapter_name, *args, **kwargs)
        self._set_scale(adapter_name, {**self._base_scale, **(read_scale(model_id, **kwargs) or {})})
        return loaded

    def set_adapter(self, adapter_name: str, inference_mode: bool = False) -> None:
        """Make an adapter the active one, as `peft.PeftModel.set_adapter` does, and its `logit_scale` the model's."""
        before = self.active_adapter
        super().set_adapter(adapter_name, inference_mode)
        self._switch_scale(before)

    def delete_adapter(self, adapter_name: str) -> None:
        """Delete an adapter as `peft.PeftModel.delete_adapter` does, and its `logit_scale`."""
        before = self.active_adapter
        super().delete_adapter(adapter_name)
        self._switch_scale(before)
        self._other_scales.pop(adapter_name, None)

    def push_to_hub(  # type: ignore[override]
        self,
        repo_id: str,
        *,
        processor: Any = None,
        base_model: str | None = None,
        commit_message: str | None = None,
        commit_description: str | None = None,
        private: bool | None = None,
        token: bool | str | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        tags: str | Sequence[str] | None = None,
    ) -> CommitInfo:
        """
        Upload the active adapter with its `logit_scale` and a card that says how it is opened. A person's
        card in the repository is left as it is, but for the `tags`.

        Args:
            repo_id (`str`): The repository, such as `user/name`; it is made if it does not exist.
            processor ([`~transformers.CLIPProcessor`], *optional*): Uploaded beside it; pipelines need one.
            base_model (`str`, *optional*): The Hub's id of the model that it adapts, needed if the adapter names a
                directory; the uploaded one then names this id.
            commit_message (`str`, *optional*): The message of the commit.
            commit_description (`str`, *optional*): The description of the commit.
            private (`bool`, *optional*): Whether a new repository is private. An existing one stays as it is.
            token (`str` or `bool`, *optional*): The token for the Hub; that of `hf auth login` or `HF_TOKEN` by
                default.
            revision (`str`, *optional*): The branch to upload to; it is made if it does not exist.
            create_pr (`bool`, defaults to `False`): Open a pull request against `main`.
            tags (`str` or `Sequence[str]`, *optional*): Tags for the metadata of the card.

        Returns:
            `huggingface_hub.CommitInfo`.

        Raises:
            ValueError: The base is not on the Hub; the repository holds a model; `repo_id` is no id; a revision is
                named for a pull request.
            OSError: The Hub cannot be reached or refuses the upload.
        """
        return upload_model(
            self,
            Destination(repo_id, "model", private, revision, create_pr, token),
            processor=processor,
            base_model=base_model,
            commit_message=commit_message,
            commit_description=commit_description,
            tags=[tags] if isinstance(tags, str) else tags or (),
        )

    def _copied_scale(self) -> Scale:
        return {name: value.detach().clone() for name, value in scale_of(self.get_base_model()).items()}

    def _scale_of(self, adapter_name: str) -> Scale:
        if adapter_name == self.active_adapter:
            return self._copied_scale()
        return self._other_scales.get(adapter_name, self._base_scale)

    def _set_scale(self, adapter_name: str, scale: Scale) -> None:
        if adapter_name == self.active_adapter:
            set_scale(self.get_base_model(), scale)
        else:
            self._other_scales[adapter_name] = scale

    def _switch_scale(self, before: str) -> None:
        """Put the active adapter's scale in the place of the one that was active before."""
        if self.active_adapter != before:
            self._other_scales[before] = self._copied_scale()
            self._set_scale(self.active_adapter, self._other_scales.get(self.active_adapter, self._base_scale))
