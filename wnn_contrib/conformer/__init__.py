"""wnn-contrib-conformer: self-attention with relative positions, and the patterns that find it."""

from pathlib import Path

from wnn.plugins import hookimpl, register

from .find_attention import op as relative_attention

__version__ = "0.1.0"


@hookimpl
def wnn_operators():
    return [relative_attention]


@hookimpl
def wnn_native():
    return str(Path(__file__).with_name("native.so"))


@hookimpl
def wnn_dialect():
    return 1


register(__name__)
