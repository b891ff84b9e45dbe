# SPDX-License-Identifier: Apache-2.0
"""Is a score what it seems: blind baselines, a probe for drawn images, leakage."""
