"""Convolutions and depthwise convolutions in turn, each of what the one before gives: executed by
bands of rows where what lies between them is far larger than a core's cache (chain.cc).

Source: layer fusion by tiles, Alwani et al. 2016 (Fused-layer CNN accelerators, MICRO-49). Limits
as measured on Zen 4 with 1 MB of L2: what is heavier to make hides the time that memory takes.
"""

import struct

from ...op import Chain
from . import geometry

MOST_LINKS, MOST_INPUTS, MOST_POSTS = 4, 3, 8  # as in chain.cc
LARGE, LIGHT = 2 << 20, 32  # bytes between two; multiply-adds for one element
WIDER = 2  # times x: else too much of the traffic stays


def _fits(call, depthwise):
    if (call.op.name == "conv_depthwise") != depthwise or len(call.arg("kernel")) != 2:
        return False
    kernel, dilations = call.arg("kernel"), call.arg("dilations")
    names = ("kernel", "strides", "pads", "dilations", "auto_pad")
    pads = geometry.resolve_pads(call.ins[0].shape[1:-1], *map(call.arg, names))
    return (
        len(call.ins) <= MOST_INPUTS
        and len(call.arg("post")) <= MOST_POSTS
        and max(pads[0], pads[2]) <= (kernel[0] - 1) * dilations[0]  # each window reads a row
        and call.ins[1].shape[-2] <= LIGHT
        and max(kernel) < 8  # the kernels' own limits are farther
        and call.outs[0].size > 0
    )


def joins(calls, call):
    return (
        len(calls) < MOST_LINKS
        and calls[-1].outs[0].size * 4 > LARGE
        and calls[0].outs[0].size >= WIDER * calls[0].ins[0].size
        and all(_fits(c, i % 2 == 1) for i, c in enumerate((*calls, call)))
    )


def pack(calls, payloads, handles):
    """int64 count, then for each Head of chain.cc and the attributes."""
    links = [
        struct.pack("7q", handle, len(call.ins), len(attrs), *call.outs[0].shape) + attrs
        for call, attrs, handle in zip(calls, payloads, handles)
    ]
    return struct.pack("q", len(calls)) + b"".join(links)


CHAIN = Chain("conv_chain_f32", joins, pack)
