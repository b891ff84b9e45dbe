#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
r"""Fine-tune a CLIP on hard negative pairs, by LoRA or otherwise, and show what it gains and what it loses.

    accelerate launch examples/finetune_lora.py                 # the small start beside the built-in data
    accelerate launch examples/finetune_lora.py --config finetune_lora --data DIR

Flags are those of `examples/pretrain.py`, and `--variants`, `--composition`, `--retention`, `--benchmarks`, `--alpha`,
`--max_loss`; `--help` lists them all, and a YAML file holds the same names.
"""

from __future__ import annotations

import sys

from hf_tripletclip.cli import run_reporting_errors
from hf_tripletclip.training.finetuning import main

DEFAULT_CONFIG = "finetune_lora_scenes"  # of the package; `--print_config` shows it

if __name__ == "__main__":
    sys.exit(run_reporting_errors(lambda: main(sys.argv[1:], DEFAULT_CONFIG)))
