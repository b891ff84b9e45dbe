# SPDX-License-Identifier: Apache-2.0
"""`TripletCLIPModel`: transformers' `CLIPModel` with a forward that knows hard negative pairs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import CLIPModel
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.clip.modeling_clip import CLIPOutput
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, logging
from transformers.utils.generic import can_return_tuple

from hf_tripletclip.configuration import TripletCLIPConfig
from hf_tripletclip.modeling.decoder_input import decoder_states, fit_decoder_input
from hf_tripletclip.modeling.load_save import LoadSaveMixin
from hf_tripletclip.modeling.token_features import token_features
from hf_tripletclip.objectives import Embeddings, Objective, Tokens, get_objective, register_objective
from hf_tripletclip.objectives.clip import CLIPObjective
from hf_tripletclip.objectives.contents import input_contents
from hf_tripletclip.roles import ROLES

logger = logging.get_logger(__name__)

PAIR = frozenset(("image", "text"))


@dataclass
class TripletCLIPOutput(CLIPOutput):
    r"""
    What [`TripletCLIPModel`] returns: the fields of transformers' `CLIPOutput`, all of them about the positive rows
    only, and those of the hard negatives.

    Args:
        loss (`torch.Tensor` of shape `()`, *optional*, returned when `return_loss` is `True`):
            The loss of the configured objective.
        logits_per_image (`torch.Tensor` of shape `(image_batch_size, text_batch_size)`, *optional*):
            `exp(logit_scale)` times the cosine of each image with each caption. `None` if `return_logits` is
            `False`.
        logits_per_text (`torch.Tensor` of shape `(text_batch_size, image_batch_size)`, *optional*):
            The transpose of `logits_per_image`.
        text_embeds (`torch.Tensor` of shape `(text_batch_size, projection_dim)`):
            L2-normalised caption embeddings.
        image_embeds (`torch.Tensor` of shape `(image_batch_size, projection_dim)`):
            L2-normalised image embeddings.
        text_model_output (`BaseModelOutputWithPooling`):
            The text tower's output, with `pooler_output` projected.
        vision_model_output (`BaseModelOutputWithPooling`):
            The vision tower's output, with `pooler_output` projected.
        negative_text_embeds (`torch.Tensor` of shape `(negative_text_batch_size, projection_dim)`, *optional*):
            L2-normalised embeddings of the hard negative captions.
        negative_image_embeds (`torch.Tensor` of shape `(negative_image_batch_size, projection_dim)`, *optional*):
            L2-normalised embeddings of the hard negative images.
        paraphrase_embeds (`torch.Tensor` of shape `(paraphrase_batch_size, projection_dim)`, *optional*):
            L2-normalised embeddings of the paraphrases.
        dense_text_embeds (`torch.Tensor` of shape `(dense_batch_size, projection_dim)`, *optional*):
            L2-normalised embeddings of the dense captions.
        tokens, token_masks (`dict[str, torch.Tensor]`, *optional*, returned when `return_tokens` is `True`):
            Patches and words by role, `(rows, length, projection_dim)` and bool `(rows, length)`, of the roles of
            which the objective needs them; see [`~hf_tripletclip.objectives.Tokens`].
        states (`dict[str, torch.Tensor]`, *optional*, returned when `return_tokens` is `True`):
            What the objective's decoder reads of texts by role, `(rows, width)`.
        loss_parts (`dict[str, torch.Tensor]`, *optional*, returned with an objective's loss):
            The objective's terms by name and `logit_scale`, here the factor `exp(logit_scale)`: detached scalars for
            logging.
    """

    negative_text_embeds: torch.Tensor | None = None
    negative_image_embeds: torch.Tensor | None = None
    paraphrase_embeds: torch.Tensor | None = None
    dense_text_embeds: torch.Tensor | None = None
    tokens: dict[str, torch.Tensor] | None = None
    token_masks: dict[str, torch.Tensor] | None = None
    states: dict[str, torch.Tensor] | None = None
    loss_parts: dict[str, torch.Tensor] | None = None


class TripletCLIPModel(LoadSaveMixin, CLIPModel):
    r"""
    CLIP that can be trained on hard negative pairs (Patel et al. 2024, arXiv 2411.02545).

    Parameters, their names and the outputs without negatives are those of [`~transformers.CLIPModel`], bit for bit.

    Example:

    ```python
    >>> from hf_tripletclip import TripletCLIPModel, load_processor

    >>> model = TripletCLIPModel.from_pretrained("TripletCLIP/CC12M_TripletCLIP_ViTB12")
    >>> processor = load_processor("TripletCLIP/CC12M_TripletCLIP_ViTB12")
    ```"""

    config_class = TripletCLIPConfig
    config: TripletCLIPConfig

    def get_input_embeddings(self) -> nn.Module:
        """The token embeddings, so that `resize_token_embeddings` works; `CLIPModel` names none."""
        return self.text_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.text_model.set_input_embeddings(value)

    @property
    def objective(self) -> Objective:
        """The training objective that the config names. Raises `ValueError` if the name is unknown."""
        name = getattr(self.config, "objective", TripletCLIPConfig.objective)
        kwargs = getattr(self.config, "objective_kwargs", None) or {}
        setting = (name, dict(kwargs))
        if getattr(self, "_objective_setting", None) != setting:
            self._objective = get_objective(name, **kwargs)
            self._objective_setting = setting
        return self._objective

    def set_objective(self, objective: str | Objective, **kwargs: Any) -> None:
        """
        Choose the training objective; its name and settings are kept in the config.

        Args:
            objective (`str` or [`~hf_tripletclip.objectives.Objective`]):
                One of [`~hf_tripletclip.objectives.available_objectives`], or an objective. The class of one's own is
                registered by it, as [`~hf_tripletclip.objectives.register_objective`] does: in another process, that
                comes before a saved model is trained on.
            kwargs: The arguments of the objective that is named.

        Raises:
            TypeError: It is neither a name nor an objective.
            ValueError: The name or an argument is unknown, there are arguments beside an objective, or its decoder is
                not there.
        """
        if isinstance(objective, Objective):
            if kwargs:
                raise ValueError(f"An objective has its settings: leave out {', '.join(kwargs)}, or give its name.")
            objective.check_teacher()
            register_objective(type(objective))
            name, kwargs = objective.name, objective.settings
        elif isinstance(objective, str):
            name, objective = objective, get_objective(objective, **kwargs)  # a wrong name leaves the model as it was
        else:
            raise TypeError(
                f"`set_objective` takes the name of an objective or an instance such as `NegCLIPObjective()`, not "
                f"{objective!r}."
            )
        fit_decoder_input(self, objective.decoder_width)
        self.config.objective = name
        self.config.objective_kwargs = kwargs or None
        self._objective, self._objective_setting = objective, (name, dict(kwargs))

    @can_return_tuple
    def get_image_features(
        self, pixel_values: torch.Tensor, interpolate_pos_encoding: bool = False, **kwargs: Unpack[TransformersKwargs]
    ) -> BaseModelOutputWithPooling:
        """
        As of [`~transformers.CLIPModel`], except that `pixel_values` of shape `(batch_size, hidden_size)` are taken
        for the pooled output of a vision tower that has run before: only the projection is put behind them.
        """
        if pixel_values.ndim == 2:
            return BaseModelOutputWithPooling(pooler_output=self.visual_projection(pixel_values))
        return super().get_image_features(pixel_values, interpolate_pos_encoding, return_dict=True, **kwargs)

    @can_return_tuple
    def get_text_features(  # type: ignore[misc]
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        """
        As of [`~transformers.CLIPModel`], except that floats `(batch_size, hidden_size)` as `input_ids` are taken for
        the pooled output of a text tower that has run before.
        """
        if input_ids.is_floating_point():
            return BaseModelOutputWithPooling(pooler_output=self.text_projection(input_ids))
        return super().get_text_features(input_ids, attention_mask, position_ids, return_dict=True, **kwargs)

    @can_return_tuple
    def forward(  # type: ignore[misc]
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        negative_input_ids: torch.LongTensor | None = None,
        negative_pixel_values: torch.FloatTensor | None = None,
        negative_attention_mask: torch.Tensor | None = None,
        negative_position_ids: torch.LongTensor | None = None,
        negative_mask: torch.Tensor | None = None,
        negative_image_mask: torch.Tensor | None = None,
        paraphrase_input_ids: torch.LongTensor | None = None,
        paraphrase_attention_mask: torch.Tensor | None = None,
        paraphrase_mask: torch.Tensor | None = None,
        paraphrase_decoder_targets: torch.LongTensor
        | None = None,  # no "label": Trainer takes those for what evaluation needs
        dense_input_ids: torch.LongTensor | None = None,
        dense_attention_mask: torch.Tensor | None = None,
        dense_mask: torch.Tensor | None = None,
        contents: Mapping[str, torch.Tensor] | None = None,
        return_loss: bool | None = None,
        return_logits: bool | None = None,
        return_tokens: bool = False,
        teacher_embeds: Mapping[str, torch.Tensor] | None = None,
        interpolate_pos_encoding: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> TripletCLIPOutput:
        r"""
        Embed images and captions and, where given, their hard negatives; each tower runs once.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`):
                Token ids of the captions.
            pixel_values (`torch.FloatTensor` of shape `(batch_size, num_channels, height, width)`):
                Preprocessed images.
            attention_mask (`torch.Tensor` of shape `(batch_size, sequence_length)`, *optional*):
                1 for tokens, 0 for padding.
            position_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
                Positions of the tokens.
            negative_input_ids (`torch.LongTensor` of shape `(negatives, negative_sequence_length)`, *optional*):
                Token ids of the hard negative captions. Their length may differ from the captions'.
            negative_pixel_values (`torch.FloatTensor` of shape `(negatives, num_channels, height, width)`):
                *Optional*, the hard negative images, of the same size as the images.
            negative_attention_mask, negative_position_ids (*optional*):
                As `attention_mask` and `position_ids`, of the hard negative captions.
            negative_mask, negative_image_mask (`torch.Tensor` of shape `(batch_size, K)`, *optional*):
                bool; if a row may have any number of hard negative captions, or images, tells whose they are: a row
                with k of them has k times `True`.
            paraphrase_input_ids, paraphrase_attention_mask, paraphrase_mask (*optional*):
                As those of the hard negative captions, of other captions that are true of the images.
            paraphrase_decoder_targets (`torch.LongTensor` of shape `(paraphrases, length)`, *optional*):
                For an objective with a decoder: its token ids of the paraphrases, -100 for padding.
            dense_input_ids, dense_attention_mask, dense_mask (*optional*):
                Likewise, of captions that each describe a part of an image.
            contents (`Mapping[str, torch.Tensor]`, *optional*):
                For an objective with `repeats="mask"`: int64 numbers by role, the same for the same picture or text,
                at least 0. Made from the inputs by default.
            return_loss (`bool`, *optional*):
                Whether to compute the loss. With negatives, with `return_logits=False`, or if the objective needs no
                negatives and is more than `clip` (such as `cyclip`), it is the configured objective's, over all
                processes; otherwise it is `CLIPModel`'s own.
            return_logits (`bool`, *optional*):
                Whether to return the logits of the positive rows. Defaults to `True`, except for a loss with
                negatives: objectives do not need the matrix.
            return_tokens (`bool`, defaults to `False`):
                Whether to return what the objective needs beside embeddings: patches and words, or what its decoder
                reads.
            teacher_embeds (`Mapping[str, torch.Tensor]`, *optional*):
                For an objective with distillation: a frozen teacher's embeddings of the same inputs by role (`image`,
                `text`, `negative_image`, ...), L2-normalised.
            interpolate_pos_encoding (`bool`, defaults to `False`):
                Whether to interpolate the vision tower's position embeddings to the images' size.
            kwargs:
                `output_hidden_states`, `output_attentions`, `return_dict` and what else the towers take.

        Returns:
            [`TripletCLIPOutput`], or a tuple with `return_dict=False`.

        Raises:
            ValueError: The objective needs negatives that were not given, or shapes do not fit.
        """
        text_inputs: dict[str, TextInputs] = {
            "text": (input_ids, attention_mask, position_ids),
            "negative_text": (negative_input_ids, negative_attention_mask, negative_position_ids),
            "paraphrase": (paraphrase_input_ids, paraphrase_attention_mask, None),
            "dense_text": (dense_input_ids, dense_attention_mask, None),
        }
        pixels = {"image": pixel_values, "negative_image": negative_pixel_values}
        images = {role: values for role, values in pixels.items() if values is not None}
        texts = {role: values for role, values in text_inputs.items() if values[0] is not None}
        has_negatives = not PAIR.issuperset((*images, *texts))
        if return_loss is None and has_negatives and self.training and torch.is_grad_enabled():
            logger.warning_once(
                "The model was given hard negatives in training mode but not `return_loss=True`: it computes no loss. "
                "For transformers' `Trainer`, `TripletCollator(..., return_loss=True)` puts it into batches."
            )
        if return_logits is None:
            return_logits = not (return_loss and has_negatives)
        by_objective = return_tokens or (return_loss and _is_more_than_clip(self.objective))
        if not has_negatives and return_logits and not by_objective:
            output = super().forward(
                input_ids=input_ids,
                pixel_values=pixel_values,
                attention_mask=attention_mask,
                position_ids=position_ids,
                return_loss=return_loss,
                interpolate_pos_encoding=interpolate_pos_encoding,
                return_dict=True,
                **kwargs,
            )
            return TripletCLIPOutput(**output)

        if input_ids is None or pixel_values is None:
            raise ValueError("Hard negatives come beside positive pairs: give `input_ids` and `pixel_values` too.")
        vision_output = self.get_image_features(
            pixel_values=_not_empty(_concatenate_images(images)),
            interpolate_pos_encoding=interpolate_pos_encoding,
            **kwargs,
        )
        joined = {
            name: None if values is None else _not_empty(values)
            for name, values in _concatenate_captions(texts).items()
        }
        text_output = self.get_text_features(**joined, **kwargs)
        of_images = {role: len(value) for role, value in images.items()}
        of_texts = {role: len(ids) for role, (ids, *_) in texts.items() if ids is not None}
        embeds = _split(_normalize(vision_output.pooler_output), of_images)
        embeds |= _split(_normalize(text_output.pooler_output), of_texts)
        tokens: dict[str, Tokens] = {}
        states: dict[str, torch.Tensor] = {}
        if return_loss or return_tokens:
            roles = self.objective.token_roles
            tokens = token_features(self, roles, vision_output, text_output, joined, {**of_images, **of_texts})
            states = decoder_states(self, self.objective.state_roles, text_output, joined["input_ids"], of_texts)
        image_embeds, text_embeds = embeds["image"], embeds["text"]
        # Under `device_map` the towers may sit on different devices.
        device = text_embeds.device

        logits_per_image = logits_per_text = None
        if return_logits:
            logits_per_text = torch.matmul(text_embeds, image_embeds.t().to(device))
            logits_per_text = logits_per_text * self.logit_scale.exp().to(device)
            logits_per_image = logits_per_text.t()

        loss = loss_parts = None
        if return_loss:
            given = {
                "negative_text": negative_mask,
                "negative_image": negative_image_mask,
                "paraphrase": paraphrase_mask,
                "dense_text": dense_mask,
            }
            inputs: dict[str, Any] = {ROLES[role].model_input: values for role, values in images.items()}
            for role, (ids, mask, _) in texts.items():
                inputs |= {ROLES[role].model_input: ids, ROLES[role].attention_mask: mask}
            numbers = input_contents(
                {**inputs, "contents": contents}, [role for role in self.objective.content_roles if role in embeds]
            )
            embeddings = Embeddings(
                **{role: values.to(device) for role, values in embeds.items()},
                masks={role: mask.to(device) for role, mask in given.items() if mask is not None and role in embeds},
                contents={role: values.to(device) for role, values in numbers.items()},
                teacher=teacher_embeds,
                tokens={role: Tokens(one.values.to(device), one.mask.to(device)) for role, one in tokens.items()},
                states={role: one.to(device) for role, one in states.items()},
                labels=None if paraphrase_decoder_targets is None else {"paraphrase": paraphrase_decoder_targets},
                normalized=True,
            )
            scale = self.logit_scale.exp().to(device)
            objective_output = self.objective(embeddings, scale)
            loss = objective_output.loss
            loss_parts = {**objective_output.parts, "logit_scale": scale.detach()}

        return TripletCLIPOutput(
            loss=loss,
            logits_per_image=logits_per_image,
            logits_per_text=logits_per_text,
            text_embeds=text_embeds,
            image_embeds=image_embeds,
            text_model_output=_first_rows(text_output, len(input_ids)),
            vision_model_output=_first_rows(vision_output, len(pixel_values)),
            **{ROLES[role].output: values for role, values in embeds.items() if role not in PAIR},
            tokens={role: one.values for role, one in tokens.items()} if return_tokens else None,
            token_masks={role: one.mask for role, one in tokens.items()} if return_tokens else None,
            states=states if return_tokens else None,
            loss_parts=loss_parts,
        )


def _is_more_than_clip(objective: Objective) -> bool:
    """Whether an objective of pairs alone has another loss than `CLIPModel`."""
    if not PAIR.issuperset(objective.roles):
        return False
    further = objective.needs_teacher or objective.masks_repeats or type(objective).compute is not Objective.compute
    return further or objective.terms != CLIPObjective.terms


def _normalize(embeds: torch.Tensor) -> torch.Tensor:
    """Divide rows by their L2 norm, in the very operations of `CLIPModel`, so that the result has the same bits."""
    return embeds / torch.pow(torch.sum(torch.pow(embeds, 2), dim=-1, keepdim=True), 0.5)


def _concatenate_images(images: Mapping[str, torch.Tensor]) -> torch.Tensor:
    positive = images["image"]
    for role, values in images.items():
        if positive.shape[1:] != values.shape[1:]:
            raise ValueError(
                f"`pixel_values` has images of shape {tuple(positive.shape[1:])} and `{ROLES[role].model_input}` of "
                f"shape {tuple(values.shape[1:])}: process both with the same image processor."
            )
    return positive if len(images) == 1 else torch.cat([values.to(positive.dtype) for values in images.values()])


TextInputs = tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]


def _concatenate_captions(texts: dict[str, TextInputs]) -> dict[str, torch.Tensor | None]:
    """Join (input_ids, attention_mask, position_ids) of all texts, right-padded to the longest."""
    names = ("input_ids", "attention_mask", "position_ids")
    if len(texts) == 1:
        return dict(zip(names, texts["text"], strict=True))
    for role, (ids, _, _) in texts.items():
        if ids is not None and ids.ndim != 2:
            raise ValueError(
                f"`{ROLES[role].model_input}` has the shape {tuple(ids.shape)}: give those of all rows one below the "
                "other, `(number, length)`, and if a row may have several the mask that tells whose they are."
            )
    length = max(ids.shape[1] for ids, _, _ in texts.values() if ids is not None)

    def pad(values: torch.Tensor) -> torch.Tensor:
        return nn.functional.pad(values, (0, length - values.shape[1]))

    joined: dict[str, torch.Tensor | None] = {}
    # Attention is causal and pooling reads the first end-of-text token, so what stands right of it has no influence;
    # id 0 never is the end-of-text token, nor the highest id of a caption.
    joined["input_ids"] = torch.cat([pad(ids) for ids, _, _ in texts.values() if ids is not None])
    for index, name in enumerate(names[1:], start=1):
        if all(inputs[index] is None for inputs in texts.values()):
            joined[name] = None
            continue
        parts = []
        for inputs in texts.values():
            ids, values = inputs[0], inputs[index]
            assert ids is not None
            if values is None:
                values = torch.ones_like(ids) if name == "attention_mask" else torch.arange(ids.shape[1]).to(ids)
            parts.append(pad(values.expand(ids.shape)))
        joined[name] = torch.cat(parts)
    return joined


def _not_empty(inputs: torch.Tensor) -> torch.Tensor:
    """
    The inputs, or one row in place of none, for the towers need some. One of several processes may have no rows of a
    batch: the row's embeddings are cut off, and its gradients are zero.
    """
    return inputs if len(inputs) else inputs.new_ones((1, *inputs.shape[1:]))


def _split(embeds: torch.Tensor, numbers: dict[str, int]) -> dict[str, torch.Tensor]:
    """The embeddings by role, of which there may be none in a batch that has a place for them."""
    return dict(zip(numbers, embeds[: sum(numbers.values())].split(list(numbers.values())), strict=True))


def _first_rows(output: BaseModelOutputWithPooling, rows: int) -> BaseModelOutputWithPooling:
    """The output for the first `rows` of the batch. `output_hidden_states=[i]` leaves `None` in the tuples."""

    def first(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(first(item) for item in value)
        return None if value is None else value[:rows]

    return type(output)(**{name: first(value) for name, value in output.items()})
