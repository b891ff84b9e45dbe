# SPDX-License-Identifier: Apache-2.0
"""One file per benchmark; [`~hf_tripletclip.evaluation.registry`] names them."""
