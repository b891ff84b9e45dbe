# SPDX-License-Identifier: Apache-2.0
"""What is evaluated is what the encoders make of these captions."""

from __future__ import annotations

CAPTIONS = ["a red cat", "a blue cat", "a red dog", "a blue dog"]
