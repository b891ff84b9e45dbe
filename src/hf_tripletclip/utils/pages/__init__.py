# SPDX-License-Identifier: Apache-2.0
"""Self-contained HTML pages: what the page of a dataset and those of an evaluation share."""
