"""The native module, as Python sees it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from copick import _cachecore

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("step", [1000, 2**62, sys.maxsize, -(2**62), -sys.maxsize])
@pytest.mark.parametrize("start", [None, 3])
def test_a_step_beyond_the_array_gives_one_item(tmp_path: Path, start: int | None, step: int) -> None:
    data = np.arange(1, 201, dtype=np.float32).reshape(10, 20)
    array = _cachecore.Array(_cachecore.Cache(), 1, str(tmp_path), data.shape, (4, 8), data.dtype, bytes(4))
    array.insert_box(data, (0, 0))
    result = np.full((1, 1), -1, np.float32)
    _, missing = array.read((slice(start, None, step), slice(start, None, step)), result)
    assert missing is None
    np.testing.assert_array_equal(result, data[start::step, start::step])
