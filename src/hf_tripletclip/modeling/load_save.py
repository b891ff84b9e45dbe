# SPDX-License-Identifier: Apache-2.0
"""How a model is loaded, saved and uploaded."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import CommitInfo
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping

from hf_tripletclip.hub.model_push import upload_model
from hf_tripletclip.hub.repository import Destination
from hf_tripletclip.layouts import adapters
from hf_tripletclip.layouts.architectures import architecture_of
from hf_tripletclip.layouts.files import (
    CONNECTION_ARGUMENTS,
    HUB_ARGUMENTS,
    LAYOUT_FILES,
    Layout,
    detect,
    hub_arguments,
    reader_of,
)
from hf_tripletclip.layouts.weights import check_weights, find_weights, load_fitting

if TYPE_CHECKING:
    from typing import Self

    _Model = PreTrainedModel  # what the mixin is mixed into
else:
    _Model = object

# Of `save_pretrained(..., push_to_hub=True)`, besides the directory.
HUB_OPTIONS = (
    "repo_id",
    "private",
    "token",
    "revision",
    "create_pr",
    "commit_message",
    "commit_description",
    "tags",
)


class LoadSaveMixin(_Model):
    """For a dual encoder: opens all layouts, keeps the scale of adapters, uploads with a card."""

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str] | None,
        *model_args: Any,
        **kwargs: Any,
    ) -> Self:
        r"""
        Load a model from a directory or Hub repository of transformers, or, a CLIP, from one in the layout that
        TripletCLIP's authors published (`text-encoder/` and `vision-encoder/`, each with a `config.json` and a
        `model.safetensors`).

        The implementation of attention that a `config.json` names is ignored: `attn_implementation` is an argument.

        Of the published layout only those four files are read or downloaded; code in the repository is never run
        and nothing is unpickled, whatever the arguments. It holds no `logit_scale`: that is set to ln(100) with a
        warning, or to the `logit_scale` given here.

        Of a PEFT adapter, the model that it adapts is loaded with the adapter inside, as transformers does, and with
        the `logit_scale` that was trained with it.

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`):
                A directory or the id of a Hub repository.
            logit_scale (`float`, *optional*):
                Only for the published layout: the value of the parameter `logit_scale`, the natural logarithm of the
                factor that multiplies cosines.
            kwargs:
                As in [`~transformers.PreTrainedModel.from_pretrained`]: `revision`, `token`, `cache_dir`,
                `subfolder`, `local_files_only`, `force_download`, `dtype`, `device_map`, `attn_implementation`, ...

        Raises:
            OSError: The directory or repository has none of the layouts and no adapter, or cannot be reached.
            ValueError: The config is of another type of model, or describes none; a tensor does not have the shape
                that the config says, is not floating or not finite, or a weights file holds more than tensors or is
                none; in the published layout, a tensor is missing or extra; an adapter does not say what it adapts,
                or adapts an adapter.
        """
        source = pretrained_model_name_or_path
        # If the caller brings the weights, there is no layout to recognise.
        if source is None or kwargs.get("state_dict") is not None:
            return super().from_pretrained(source, *model_args, **kwargs)
        layout = detect(source, **kwargs)
        if layout is None and kwargs.get("config") is None and kwargs.get("gguf_file") is None:
            raise OSError(f"{os.fspath(source)} holds no model: it has none of {', '.join(LAYOUT_FILES)}.")
        if _is_clip(cls) and (read := reader_of(layout)) is not None:
            config, state_dict, kwargs = read(source, **kwargs)
            loaded: Any = super().from_pretrained(None, *model_args, config=config, state_dict=state_dict, **kwargs)
            model = loaded[0] if isinstance(loaded, tuple) else loaded
            model.name_or_path = model.config.name_or_path = os.fspath(source)  # transformers knows of no name
            return loaded
        if layout is Layout.PEFT:
            base, revision = adapters.read_base(source, **kwargs)
            of_base = {name: value for name, value in kwargs.items() if name in CONNECTION_ARGUMENTS}
            of_base["revision"] = revision
            adapters.check_base(source, base, **of_base)
            adapters.check_adapter_weights(source, kwargs)
            if _is_clip(cls) and reader_of(detect(base, **of_base)) is not None:
                return cls._with_adapter(source, base, of_base, *model_args, **kwargs)
            try:
                _check_files(cls, base, {**kwargs, "revision": revision, "subfolder": ""})
            except OSError as error:
                raise OSError(adapters.cannot_load(source, base, error)) from error
        elif layout is Layout.TRANSFORMERS:
            _check_files(cls, source, kwargs)
        found: Any = load_fitting(partial(super().from_pretrained, source, *model_args), source, **kwargs)
        return found

    @classmethod
    def _with_adapter(
        cls, source: str | os.PathLike[str], base: str, of_base: dict[str, Any], *model_args: Any, **kwargs: Any
    ) -> Any:
        """Load an adapter of a model in a layout in which transformers finds no model."""
        hub = {name: kwargs.pop(name) for name in HUB_ARGUMENTS if name in kwargs}
        if (scale := adapters.read_scale(source, **hub)) is not None:
            kwargs["logit_scale"] = scale[adapters.LOGIT_SCALE].item()  # else it would warn that there is none
        name, adapter_kwargs = kwargs.pop("adapter_name", "default"), kwargs.pop("adapter_kwargs", None) or {}
        loaded: Any = cls.from_pretrained(base, *model_args, **of_base, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        info = model.load_adapter(source, name, adapter_kwargs={**hub, **adapter_kwargs}, dtype=model.dtype)
        return (model, info.to_dict()) if isinstance(loaded, tuple) else model

    def load_adapter(  # type: ignore[override]
        self, peft_model_id: str | os.PathLike[str] | None = None, adapter_name: str | None = None, **kwargs: Any
    ) -> Any:
        """
        Load a PEFT adapter into the model as transformers does, with the `logit_scale` beside it. The model has one
        scale: that of the adapter that was loaded last.

        Args:
            peft_model_id (`str` or `os.PathLike`, *optional*): A directory or the id of a Hub repository.
            adapter_name (`str`, *optional*): Its name in the model, `"default"` by default.
            kwargs: As of transformers' `load_adapter`; what concerns the Hub comes in `adapter_kwargs`.
        """
        info = super().load_adapter(peft_model_id, adapter_name, **kwargs)  # type: ignore[arg-type]
        if peft_model_id is not None:
            load_config = kwargs.get("load_config")
            hub = dict(load_config.download_kwargs if load_config else {}) | (kwargs.get("adapter_kwargs") or {})
            adapters.set_scale(self, adapters.read_scale(peft_model_id, **hub))
        return info

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """
        As [`~torch.nn.Module.load_state_dict`]. Names and shapes may be those of a file, which differ for some types,
        such as AltCLIP and DINOv2: `Trainer` reads the files of a checkpoint so, and would pass over those names.
        """
        own = self.state_dict()
        if not own.keys() >= state_dict.keys() and get_model_conversion_mapping(self, add_legacy=False):
            config = copy.deepcopy(self.config)
            loaded: Any = type(self).from_pretrained(
                None, config=config, state_dict=dict(state_dict), dtype=self.dtype, output_loading_info=True
            )
            model, info = loaded
            found = {name: value for name, value in model.state_dict().items() if name not in info["missing_keys"]}
            state_dict = found | {name: state_dict[name] for name in info["unexpected_keys"] if name in state_dict}
        return super().load_state_dict(state_dict, strict=strict, assign=assign)

    def save_pretrained(  # type: ignore[override]
        self,
        save_directory: str | os.PathLike[str],
        is_main_process: bool = True,
        state_dict: dict[str, torch.Tensor] | None = None,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """
        Save the model as [`~transformers.PreTrainedModel.save_pretrained`] does, as one of the class of transformers:
        that is what `architectures` in the `config.json` names. If an adapter was loaded into it, that saves the
        adapter; here the `logit_scale` is saved beside it.

        Args:
            save_directory (`str` or `os.PathLike`): The directory; it is made if it does not exist.
            is_main_process (`bool`, defaults to `True`): Whether this process writes.
            state_dict (`dict[str, torch.Tensor]`, *optional*): What to save in the place of the model's own.
            push_to_hub (`bool`, defaults to `False`): Whether to upload the directory too, as [`push_model`] does.
            kwargs: `max_shard_size` and what else transformers takes; for the upload `repo_id`, the directory's name
                by default, and what [`TripletCLIPModel.push_to_hub`] takes.
        """
        upload = {name: kwargs.pop(name) for name in HUB_OPTIONS if name in kwargs}
        # If the text tower takes embeddings, `Trainer` writes what the tokenizer calls its end into the config.
        if hasattr(self.text_model, "eos_token_id"):
            self.config.text_config.eos_token_id = self.text_model.eos_token_id
        # transformers sets the whole model's; in that of a tower `CLIPTextModel` and `CLIPVisionModel` open it.
        for tower in (self.config.text_config, self.config.vision_config):
            tower.dtype = self.dtype
        super().save_pretrained(save_directory, is_main_process, state_dict, **kwargs)
        if not self.should_save_on_this_rank(is_main_process):
            return
        if self._hf_peft_config_loaded:
            adapters.write_scale(self, save_directory)
        elif (known := architecture_of(self.config)) is not None:  # by which other programs choose their own code
            self.config.architectures = [known.base]
            self.config.save_pretrained(save_directory)
        if push_to_hub:
            self._upload(save_directory, **{"repo_id": Path(save_directory).resolve().name, **upload})

    def push_to_hub(  # type: ignore[override]
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        commit_description: str | None = None,
        private: bool | None = None,
        token: bool | str | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        max_shard_size: int | str | None = "50GB",
        tags: str | list[str] | None = None,
    ) -> CommitInfo:
        """
        Upload the model as [`~transformers.PreTrainedModel.push_to_hub`] does, with a card that says how it is opened.
        A person's card in the repository stays as it is, but for the `tags`. [`push_model`] uploads a processor too,
        or a whole folder, whose card says what the model was trained with and what was measured.

        Args:
            repo_id (`str`): The repository, such as `user/name`; it is made if it does not exist.
            commit_message (`str`, *optional*): The message of the commit.
            commit_description (`str`, *optional*): The description of the commit.
            private (`bool`, *optional*): Whether a new repository is private. An existing one stays as it is.
            token (`str` or `bool`, *optional*): The token for the Hub; that of `hf auth login` or `HF_TOKEN` by
                default.
            revision (`str`, *optional*): The branch to upload to; it is made if it does not exist.
            create_pr (`bool`, defaults to `False`): Open a pull request against `main`.
            max_shard_size (`int` or `str`, defaults to `"50GB"`): The size of a file of weights.
            tags (`str` or `list[str]`, *optional*): Tags for the metadata of the card.

        Returns:
            `huggingface_hub.CommitInfo`.

        Raises:
            ValueError: `repo_id` is no id; a revision is named for a pull request; the repository holds an adapter.
            OSError: The Hub cannot be reached or refuses the upload.
        """
        return self._upload(
            self,
            repo_id,
            commit_message=commit_message,
            commit_description=commit_description,
            private=private,
            token=token,
            revision=revision,
            create_pr=create_pr,
            tags=tags,
            max_shard_size="50GB" if max_shard_size is None else max_shard_size,
        )

    def _upload(
        self,
        content: PreTrainedModel | str | os.PathLike[str],
        repo_id: str,
        *,
        private: bool | None = None,
        token: bool | str | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        tags: str | list[str] | None = None,
        **options: Any,
    ) -> CommitInfo:
        """Upload the model, or a directory that it was saved to."""
        given = [tags] if isinstance(tags, str) else tags or []
        destination = Destination(repo_id, "model", private, revision, create_pr, token)
        return upload_model(content, destination, tags=[*(self.model_tags or ()), *given], **options)


def _is_clip(model: type[Any]) -> bool:
    """Whether a class reads layouts of CLIP that transformers does not know."""
    return bool(model.config_class.model_type == "clip")


def _check_files(model: type[Any], source: str | os.PathLike[str], kwargs: dict[str, Any]) -> None:
    """Check the config and the weights of a model of transformers before transformers reads them."""
    config = kwargs.get("config")
    if not isinstance(config, PreTrainedConfig):
        config = model.config_class.from_pretrained(source if config is None else config, **hub_arguments(kwargs))
    if kwargs.get("gguf_file") is None:
        check_weights(find_weights(source, kwargs, getattr(config, "transformers_weights", None)))
