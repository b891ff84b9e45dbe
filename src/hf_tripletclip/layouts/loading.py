# SPDX-License-Identifier: Apache-2.0
"""Weights that do not fit their config: an error that names them, in the place of transformers' table."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

from hf_tripletclip.configuration import ConfigError


@contextlib.contextmanager
def no_report_of_what_is_refused() -> Iterator[None]:
    """
    Without transformers' table of the weights that do not fit where the block ends in an error, which says it in one
    line. Where it does not, the table is shown at its end.
    """
    logger = logging.getLogger("transformers.modeling_utils")
    held = _HoldReports()
    logger.addFilter(held)
    try:
        yield
    finally:
        logger.removeFilter(held)
    for record in held.records:
        logger.handle(record)


def load_fitting(load: Callable[..., Any], source: object, **kwargs: Any) -> Any:
    """
    What a `from_pretrained` of transformers returns. Tensors that do not have the shape that the config says are named
    in an error; transformers shows them in a table only.

    Args:
        load (`Callable`): The `from_pretrained` of a source.
        source: Its name, for messages.
        kwargs: Its arguments.

    Raises:
        ValueError: Tensors do not fit; others as there.
    """
    with no_report_of_what_is_refused():
        try:
            return load(**kwargs)
        except RuntimeError as error:
            if "ignore_mismatched_sizes" not in str(error):
                raise
            # On no device: what does not fit would be made anew, in sizes that may be wrong by far.
            kwargs |= {"ignore_mismatched_sizes": True, "output_loading_info": True, "device_map": "meta"}
            info = load(**kwargs)[1]
            listed = "; ".join(
                f"{name!r} is {tuple(found)} in the file and {tuple(expected)} by the config"
                for name, found, expected in sorted(info["mismatched_keys"])[:5]
            )
            raise ConfigError(f"The weights of {source} do not fit its config: {listed}.") from error


class _HoldReports(logging.Filter):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def filter(self, record: logging.LogRecord) -> bool:
        if "LOAD REPORT" not in record.getMessage():
            return True
        self.records.append(record)
        return False
