# SPDX-License-Identifier: Apache-2.0
"""The triplet-aware forward, for any dual encoder of transformers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.clip.modeling_clip import CLIPOutput
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, logging
from transformers.utils.generic import can_return_tuple

from hf_tripletclip.layouts.adapters import LOGIT_BIAS, scale_of
from hf_tripletclip.modeling.architecture import ArchitectureMixin
from hf_tripletclip.modeling.decoder_input import decoder_states, fit_decoder_input
from hf_tripletclip.modeling.load_save import LoadSaveMixin
from hf_tripletclip.modeling.token_features import token_features
from hf_tripletclip.objectives import Embeddings, Objective, Tokens, get_objective, register_objective
from hf_tripletclip.objectives.clip import CLIPObjective
from hf_tripletclip.objectives.contents import input_contents
from hf_tripletclip.roles import ROLES

if TYPE_CHECKING:
    _Model = PreTrainedModel  # what the mixin is mixed into
else:
    _Model = object

logger = logging.get_logger(__name__)

PAIR = frozenset(("image", "text"))
# Token ids or the pooled output of before, attention mask, positions.
TextInputs = tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]


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


class TripletMixin(ArchitectureMixin, LoadSaveMixin, _Model):
    r"""
    Gives a dual encoder of transformers a forward that takes hard negative pairs (Patel et al. 2024,
    arXiv 2411.02545), and an objective:

    ```python
    class TripletSiglipModel(TripletMixin, SiglipModel):
        config_class = TripletSiglipConfig
    ```

    Parameters, their names and the outputs without negatives stay those of the class it is mixed into, bit for bit.
    What differs between architectures is said by [`~hf_tripletclip.modeling.architecture.ArchitectureMixin`].
    """

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        own: Any = self.config_class
        if config is not None and config.model_type == own.model_type and not isinstance(config, own):
            config = _with_fields_of(own, config)
        super().__init__(config, *args, **kwargs)

    # ---- The objective ----

    @property
    def objective(self) -> Objective:
        """The training objective that the config names. Raises `ValueError` if the name is unknown."""
        name = getattr(self.config, "objective", None) or self.config_class.objective
        kwargs = getattr(self.config, "objective_kwargs", None) or {}
        setting = (name, dict(kwargs))
        if getattr(self, "_objective_setting", None) != setting:
            self._objective = self._fitting(get_objective(name, **kwargs))
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
            ValueError: The name or an argument is unknown, there are arguments beside an objective, its decoder is
                not there, or the model does not give it the patches and words that it needs.
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
        fit_decoder_input(self, self._fitting(objective).decoder_width)
        self.config.objective = name
        self.config.objective_kwargs = kwargs or None
        self._objective, self._objective_setting = objective, (name, dict(kwargs))

    def _fitting(self, objective: Objective) -> Objective:
        """An objective, if the model gives it what it needs."""
        if not self.gives_tokens and (objective.token_roles or objective.decoder_width is not None):
            raise ValueError(
                f"The objective {objective.name!r} looks at patches or words in the common space, which a "
                f"{type(self).__name__} does not give: its towers embed images and texts only as a whole. Choose "
                "another objective."
            )
        return objective

    # ---- Embeddings and loss ----

    @can_return_tuple
    def get_image_features(
        self, pixel_values: torch.Tensor, interpolate_pos_encoding: bool = False, **kwargs: Unpack[TransformersKwargs]
    ) -> BaseModelOutputWithPooling:
        """
        As of the class of transformers, except that `pixel_values` of shape `(batch_size, width)` are taken for what
        the image tower has pooled before: only the projection is put behind them.
        """
        if pixel_values.ndim == 2:
            return BaseModelOutputWithPooling(pooler_output=self.project_images(pixel_values))
        if interpolate_pos_encoding:  # not every tower has the argument
            kwargs["interpolate_pos_encoding"] = True  # type: ignore[typeddict-unknown-key]
        return super().get_image_features(pixel_values=pixel_values, return_dict=True, **kwargs)  # type: ignore[misc]

    @can_return_tuple
    def get_text_features(  # type: ignore[misc]
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        """
        As of the class of transformers, except that floats `(batch_size, width)` as `input_ids` are taken for what the
        text tower has pooled before.
        """
        if input_ids.is_floating_point():
            return BaseModelOutputWithPooling(pooler_output=self.project_texts(input_ids))
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "position_ids": position_ids}
        return super().get_text_features(**inputs, return_dict=True, **kwargs)  # type: ignore[misc]

    @can_return_tuple
    def forward(  # type: ignore[misc]
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
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
            token_type_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
                All 0, as tokenizers of BERT's kind give them; the towers do without.
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
        if token_type_ids is not None and bool(token_type_ids.any()):
            raise ValueError("`token_type_ids` must be 0: a caption is one text, not a pair of texts.")
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
        by_objective = return_tokens or (return_loss and self._has_own_loss())
        if not has_negatives and return_logits and not by_objective:
            if interpolate_pos_encoding:
                kwargs["interpolate_pos_encoding"] = True
            output = super().forward(
                input_ids=input_ids,
                pixel_values=pixel_values,
                attention_mask=attention_mask,
                position_ids=position_ids,
                return_loss=return_loss,
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
            name: None if values is None else _not_empty(values) for name, values in self._joined_texts(texts).items()
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
        bias = scale_of(self).get(LOGIT_BIAS)
        bias = None if bias is None else bias.to(device)

        logits_per_image = logits_per_text = None
        if return_logits:
            logits_per_text = torch.matmul(text_embeds, image_embeds.t().to(device))
            logits_per_text = logits_per_text * self.logit_scale.exp().to(device)
            if bias is not None:
                logits_per_text = logits_per_text + bias
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
            scale = self.logit_scale.exp().to(device).reshape(())
            objective_output = self.objective(embeddings, scale, bias)
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

    def _has_own_loss(self) -> bool:
        """Whether the objective takes pairs alone, and its loss is not that of the class this is mixed into."""
        objective = self.objective
        if not PAIR.issuperset(objective.roles):
            return False
        further = (
            objective.needs_teacher or objective.masks_repeats or type(objective).compute is not Objective.compute
        )
        return further or not self.loss_is_clip or objective.terms != CLIPObjective.terms

    def _joined_texts(self, texts: dict[str, TextInputs]) -> dict[str, torch.Tensor | None]:
        """(input_ids, attention_mask, position_ids) of all texts, right-padded to the longest."""
        names = ("input_ids", "attention_mask", "position_ids")
        if len(texts) == 1:
            return dict(zip(names, texts["text"], strict=True))
        lengths = {}
        for role, (ids, _, _) in texts.items():
            assert ids is not None
            if ids.ndim != 2:
                raise ValueError(
                    f"`{ROLES[role].model_input}` has the shape {tuple(ids.shape)}: give those of all rows one below "
                    "the other, `(number, length)`, and if a row may have several the mask that tells whose they are."
                )
            lengths[ROLES[role].model_input] = ids.shape[1]
        length = max(lengths.values())
        differ = len(set(lengths.values())) > 1
        if differ and self.text_length_is_fixed:
            raise ValueError(
                f"The texts of a batch differ in length ({', '.join(f'{name}: {n}' for name, n in lengths.items())}), "
                f"and a {type(self).__name__} pools the last position: pad all to the same length, with the "
                '`padding="max_length"` of its tokenizer.'
            )

        def pad(values: torch.Tensor, with_value: int = 0) -> torch.Tensor:
            return nn.functional.pad(values, (0, length - values.shape[1]), value=with_value)

        joined: dict[str, torch.Tensor | None] = {}
        padding = self.text_padding
        joined["input_ids"] = torch.cat([pad(ids, padding) for ids, _, _ in texts.values() if ids is not None])
        for index, name in enumerate(names[1:], start=1):
            # If a text tower reads to the right, padding must be masked.
            needed = name == "attention_mask" and differ and not self.text_is_causal
            if not needed and all(inputs[index] is None for inputs in texts.values()):
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


def _with_fields_of(own: Any, config: Any) -> PreTrainedConfig:
    """A config of transformers as one of this package, with the implementations of attention that were chosen."""
    found = own.from_dict(config.to_dict())
    for part, given in (
        (found, config),
        (found.text_config, config.text_config),
        (found.vision_config, config.vision_config),
    ):
        part._attn_implementation_internal = given._attn_implementation_internal
    return found


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
