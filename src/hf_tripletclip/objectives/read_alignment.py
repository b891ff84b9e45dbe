# SPDX-License-Identifier: Apache-2.0
"""`read_alignment`: NegCLIP with paraphrases that must find their captions, and can be reconstructed from them."""

from __future__ import annotations

from typing import Any

from hf_tripletclip.objectives.base import Objective, check_weight
from hf_tripletclip.objectives.negclip import NegCLIPObjective
from hf_tripletclip.objectives.reconstruction import ReconstructionTerm, decoder_width, load_decoder, load_tokenizer
from hf_tripletclip.objectives.terms import LossTerm, Term


def _terms(weight: float, negatives: bool, reconstruction: float, decoder: str | None) -> tuple[LossTerm, ...]:
    keys = ("text", "negative_text") if negatives else ("text",)
    written = [] if decoder is None else [ReconstructionTerm("text", "paraphrase", reconstruction, decoder)]
    return (*NegCLIPObjective.terms, Term("paraphrase", keys, weight), *written)


class ReadAlignmentObjective(Objective):
    r"""
    NegCLIP, and each paraphrase must find its caption among the captions of the batch. If there is a decoder, it must
    also write the paraphrases from the caption's embedding:

    ``1/2 [CE(v -> T ∪ T') + CE(t -> V)] + paraphrase_weight CE(p -> T) + reconstruction_weight R(t -> p)``

    with `CE` as in [`CLIPObjective`]: the sentence-level alignment of READ-CLIP. `R` is its token-level
    reconstruction, ``- mean log P(p_l | p_1 ... p_(l-1), W h)`` over all tokens of all paraphrases. `P` is a frozen
    T5 whose only encoder state is ``W h``: the text tower's pooled output before its projection, times a matrix.

    The T5 runs without dropout. It never changes, so it is loaded by its name and not saved. The model's optimizer
    trains `W` too: checkpoints keep it (`decoder_input.safetensors`) and resuming restores it, but saved models do not
    contain it, because embeddings do not need it. A decoder cannot be combined with DeepSpeed.

    Args:
        paraphrase_weight (`float`, defaults to 0.5): Weight of the alignment.
        negatives_in_alignment (`bool`, defaults to `False`): Whether T' enters the paraphrases' denominators.
        decoder (`str`, *optional*): A T5, as a directory or a name on the Hub; the authors use
            `"google/t5-v1_1-large"`. Without a decoder there is no reconstruction.
        reconstruction_weight (`float`, defaults to 0.1): Weight of the reconstruction; unused without a decoder.
        kwargs: As in [`Objective`], such as `distillation`, `teacher_decay` and `repeats`.

    Requirements:
        Hard negative captions and paraphrases, any number per row or none.

    Inputs:

    | role | dataset column | model input | rows |
    | --- | --- | --- | --- |
    | `image` | `image` | `pixel_values` | B |
    | `text` | `caption` | `input_ids` | B |
    | `negative_text` | `neg_caption` | `negative_input_ids` | any |
    | `paraphrase` | `paraphrase` | `paraphrase_input_ids` | any |

    With a decoder, batches also hold `paraphrase_decoder_targets`: the decoder's token ids of the paraphrases, at most
    77 of each. `TripletCLIPTrainer` adds them to raw rows; rows that are tensors already must have them.

    Relations:
        `negclip` if the weight is 0 and there is no decoder.

    Example:

    ```python
    >>> import torch
    >>> from hf_tripletclip.objectives import Embeddings, get_objective

    >>> image, text, negative_text, paraphrase = torch.nn.functional.normalize(torch.randn(4, 8, 16), dim=-1)
    >>> embeddings = Embeddings(image, text, negative_text=negative_text, paraphrase=paraphrase)
    >>> sorted(get_objective("read_alignment")(embeddings, 14.3).parts)
    ['image_to_text', 'paraphrase_to_text', 'text_to_image']

    >>> import tempfile
    >>> from transformers import T5Config, T5ForConditionalGeneration
    >>> size = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0}
    >>> with tempfile.TemporaryDirectory() as folder:  # a T5 that has learned nothing
    ...     T5ForConditionalGeneration(T5Config(vocab_size=40, **size)).save_pretrained(folder)
    ...     states, labels = {"text": torch.randn(8, 8)}, {"paraphrase": torch.randint(1, 40, (8, 6))}
    ...     embeddings = Embeddings(
    ...         image, text, negative_text=negative_text, paraphrase=paraphrase, states=states, labels=labels
    ...     )
    ...     output = get_objective("read_alignment", decoder=folder)(embeddings, 14.3)
    >>> "text_writes_paraphrase" in output.parts
    True
    ```

    References:
        Kwon et al. 2025, "Enhancing Compositional Reasoning in CLIP via Reconstruction and Alignment of Text
        Descriptions", arXiv 2510.16540, with the settings of the released code.
    """

    name = "read_alignment"
    terms = _terms(0.5, False, 0.1, None)

    def __init__(
        self,
        paraphrase_weight: float = 0.5,
        negatives_in_alignment: bool = False,
        decoder: str | None = None,
        reconstruction_weight: float = 0.1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if decoder is not None and (not isinstance(decoder, str) or not decoder.strip()):
            raise ValueError(f"`decoder` is {decoder!r}; give the directory of a T5 or its name on the Hub.")
        self.paraphrase_weight = check_weight("paraphrase_weight", paraphrase_weight)
        self.negatives_in_alignment = negatives_in_alignment
        self.decoder = decoder
        self.reconstruction_weight = check_weight("reconstruction_weight", reconstruction_weight)
        self.terms = _terms(paraphrase_weight, negatives_in_alignment, reconstruction_weight, decoder)

    @property
    def decoder_width(self) -> int | None:
        return None if self.decoder is None else decoder_width(self.decoder)

    def prepare_collator(self, collator: Any) -> Any:
        from hf_tripletclip.data.decoder_labels import with_labels  # here: only training needs it

        if self.decoder is None:
            return collator
        load_decoder(self.decoder)  # loaded now, so that an error appears before the first step
        return with_labels(collator, load_tokenizer(self.decoder), self.label_roles)
