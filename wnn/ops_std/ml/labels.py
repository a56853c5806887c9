"""Labels and categories: texts and numbers mapped to each other, and scores said by label.

Source: ONNX LabelEncoder-2, CategoryMapper-1, ZipMap-1.
"""

from __future__ import annotations

import numpy as np

from ... import dtypes
from ...op import Op
from . import DOMAIN, importer, refuse

zip_map = Op("zip_map", "x", attrs={"keys": ...})
relabel = Op("relabel", "x", attrs={"keys": ..., "values": ..., "default": ..., "dtype": ...})


@zip_map.control
def run_zip_map(run, x, *, keys):
    """A list of {key: number} for each row of x (N, K)."""
    return [[dict(zip(keys, row.tolist(), strict=True)) for row in x]]


@zip_map.importer("ZipMap", domain=DOMAIN)
def zip_map_from_onnx(g, node):
    keys = node.attr("classlabels_strings") or node.attr("classlabels_int64s") or []
    return g.add(zip_map, node.inputs, keys=tuple(keys))


@relabel.rule
def rule(x, keys, values, default, dtype):
    return x.like(dtype=dtype)


@relabel.reference
def reference(x, keys, values, default, dtype):
    """The value that stands where x's number or text stands among the keys, else the default."""
    table = dict(zip(keys, values, strict=True))
    nan = next((v for k, v in table.items() if k != k), default)
    made = [nan if k != k else table.get(k, default) for k in x.reshape(-1).tolist()]
    return np.array(made, dtypes.NUMPY[dtype]).reshape(x.shape)


@relabel.importer("LabelEncoder", domain=DOMAIN, since=2)
def label_encoder(g, node):
    kinds = {"strings": "str", "int64s": "i64", "floats": "f32"}
    keys = next((k for k in kinds if node.attr(f"keys_{k}")), None)
    values = next((k for k in kinds if node.attr(f"values_{k}")), None)
    if keys is None or values is None:
        raise refuse(node, "keys or values in a tensor", f"lists of {list(kinds)}")
    usual = {"strings": "_Unused", "int64s": -1, "floats": -0.0}[values]
    default = node.attr(f"default_{values.removesuffix('s')}", usual)
    given = node.attr(f"keys_{keys}")
    known = list(np.float32(given).tolist() if keys == "floats" else given)
    return g.add(
        relabel,
        [node.inputs[0]],
        keys=tuple(known),
        values=tuple(node.attr(f"values_{values}")),
        default=default,
        dtype=kinds[values],
    )


@importer("CategoryMapper")
def category_mapper(g, node):
    numbers, texts = node.attr("cats_int64s"), node.attr("cats_strings")
    if node.spec(0).dtype == "str":
        given = (texts, numbers, node.attr("default_int64", -1), "i64")
    else:
        given = (numbers, texts, node.attr("default_string", "_Unused"), "str")
    keys, values, default, dtype = given
    return g.add(
        relabel, node.inputs, keys=tuple(keys), values=tuple(values), default=default, dtype=dtype
    )


@relabel.cases
def cases(rng):
    x = np.arange(12).reshape(3, 4) % 5
    yield {"x": x, "keys": (0, 1, 4), "values": (7, 8, 9), "default": -1, "dtype": "i64"}
    yield {"x": x, "keys": (2,), "values": (0.5,), "default": 0.25, "dtype": "f32"}
    yield {"x": x[:0], "keys": (2,), "values": (0.5,), "default": 0.25, "dtype": "f32"}
