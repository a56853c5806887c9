"""wnn-contrib-vit: attention of Vision Transformers, and the patterns that find it."""

from pathlib import Path

from wnn.plugins import hookimpl, register

from . import packed_attention

__version__ = "0.1.0"


@hookimpl
def wnn_operators():
    return [packed_attention.op]


@hookimpl
def wnn_native():
    return str(Path(__file__).with_name("native.so"))


@hookimpl
def wnn_dialect():
    return 1


register(__name__)
