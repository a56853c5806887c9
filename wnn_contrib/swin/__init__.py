"""wnn-contrib-swin: attention within windows of an image, and the patterns that find it."""

from pathlib import Path

from wnn.plugins import hookimpl, register

from .find_windows import op as window_attention

__version__ = "0.1.0"


@hookimpl
def wnn_operators():
    return [window_attention]


@hookimpl
def wnn_native():
    return str(Path(__file__).with_name("native.so"))


@hookimpl
def wnn_dialect():
    return 1


register(__name__)
