# SPDX-License-Identifier: Apache-2.0
"""Checks of a score: blind baselines, a probe for drawn images, leakage."""
