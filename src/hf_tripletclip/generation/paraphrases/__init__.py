# SPDX-License-Identifier: Apache-2.0
"""Sources of paraphrases: other captions that say the same."""
