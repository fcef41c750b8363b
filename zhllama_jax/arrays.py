"""The one legend of dimensions, and the types that stand for trees and arrays.

Arrays carry their shape in the name (`x_BTD`), one letter a dimension, in order:

    B batch          N query heads       D model width      L layers
    T query length   K key/value heads   F MLP width        R LoRA rank
    S key length     G query heads per   V vocabulary       M flat tokens (B·T)
    I kernel's input   key/value head      or some of it    C one chunk of M
    O its output     H head width        h half of H

The letters are those of `jax.nn.dot_product_attention` where it has one. Scalars, trees and
Python values carry no suffix.
"""

from typing import Any

import jax
import numpy as np

Array = jax.Array | np.ndarray
Tree = dict[str, Any]
"""Nested dicts of arrays (or of whatever a table assigns to them)."""
