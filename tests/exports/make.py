"""Makes the small models beside this file: real architectures through PyTorch's own exporters.

usage: python tests/exports/make.py [NAME ...]
needs torch, transformers, onnx, onnxscript, onnxruntime

Each NAME.onnx is exported by the TorchScript exporter (_ts) or by torch.export (_dynamo; _23: to
opset 23, which has attention as an operator), with free axes as its name says; NAME.npz holds an
input and what onnxruntime answers. They are kept, as CI has no torch.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
import transformers as tf

HERE = Path(__file__).parent
VIT = dict(
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=32,
    image_size=16,
    patch_size=4,
)
SWIN = dict(image_size=16, patch_size=2, embed_dim=8, depths=[2], num_heads=[2], window_size=4)
CONFORMER = dict(
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=32,
    conv_dim=(16, 16),
    conv_stride=(5, 2),
    conv_kernel=(10, 3),
    num_feat_extract_layers=2,
    num_conv_pos_embeddings=8,
    num_conv_pos_embedding_groups=2,
    conv_depthwise_kernel_size=7,
    position_embeddings_type="relative",
    max_source_positions=64,
)
BERT = dict(
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=32,
    feature_projection_input_dim=20,
    conv_depthwise_kernel_size=7,
    position_embeddings_type="relative_key",
)
PARAKEET = dict(
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=32,
    num_mel_bins=16,
    subsampling_conv_channels=8,
    conv_kernel_size=7,
    max_position_embeddings=100,
)
PICTURE, WIDE = (2, 3, 16, 16), (1, 3, 24, 16)


class First(torch.nn.Module):
    """A model's first output, with fixed keyword arguments."""

    def __init__(self, model, **kwargs):
        super().__init__()
        self.model, self.kwargs = model.eval(), kwargs

    def forward(self, x):
        return self.model(x, **self.kwargs)[0]


def vit(attention="eager", **kwargs):
    config = tf.ViTConfig(**VIT, attn_implementation=attention)
    return First(tf.ViTModel(config, add_pooling_layer=False), **kwargs)


def swin():
    return First(tf.SwinModel(tf.SwinConfig(**SWIN), add_pooling_layer=False))


def conformer():
    return First(tf.Wav2Vec2ConformerModel(tf.Wav2Vec2ConformerConfig(**CONFORMER)))


def bert():
    return First(tf.Wav2Vec2BertModel(tf.Wav2Vec2BertConfig(**BERT)))


MODELS = {  # name: (model, input shape, free axes)
    "vit_batch_ts": (lambda: vit(), PICTURE, {0: "n"}),
    "vit_batch_dynamo": (lambda: vit("sdpa"), PICTURE, {0: "n"}),
    "vit_size_ts": (lambda: vit("sdpa", interpolate_pos_encoding=True), WIDE, {2: "h", 3: "w"}),
    "vit_size_dynamo": (lambda: vit(interpolate_pos_encoding=True), WIDE, {2: "h", 3: "w"}),
    "swin_batch_ts": (lambda: swin(), PICTURE, {0: "n"}),
    "swinv2_dynamo": (
        lambda: First(tf.Swinv2Model(tf.Swinv2Config(**SWIN), add_pooling_layer=False)),
        (1, 3, 20, 16),
        None,
    ),
    "swin_23": (lambda: swin(), PICTURE, None),
    "vit_size_23": (lambda: vit("sdpa", interpolate_pos_encoding=True), WIDE, {2: "h", 3: "w"}),
    "conformer_time_ts": (lambda: conformer(), (1, 600), {1: "t"}),
    "conformer_time_23": (lambda: conformer(), (1, 600), {1: "t"}),
    "bert_time_ts": (lambda: bert(), (1, 40, 20), {1: "t"}),
    "bert_23": (lambda: bert(), (1, 40, 20), None),
    "parakeet_time_ts": (
        lambda: First(tf.ParakeetEncoder(tf.ParakeetEncoderConfig(**PARAKEET))),
        (1, 80, 16),
        {1: "t"},
    ),
}


def export(name: str) -> None:
    """Writes NAME.onnx and NAME.npz."""
    make, shape, free = MODELS[name]
    torch.manual_seed(0)
    model, x = make(), torch.randn(shape)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.onnx"
        if name.endswith("_ts"):
            axes = {"x": free} if free else None
            torch.onnx.export(
                model,
                (x,),
                path,
                dynamo=False,
                opset_version=17,
                input_names=["x"],
                dynamic_axes=axes,
            )
        else:
            axes = {"x": dict.fromkeys(free, torch.export.Dim.DYNAMIC)} if free else None
            late = name.endswith("_23")
            with torch.set_grad_enabled(not late):  # with gradients attention comes apart
                torch.onnx.export(
                    model,
                    (x,),
                    dynamo=True,
                    dynamic_shapes=axes,
                    opset_version=23 if late else None,
                ).save(path)
        proto = onnx.load(path)
    for node in proto.graph.node:  # stack traces and source locations
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    for value in [*proto.graph.value_info, *proto.graph.initializer]:
        value.ClearField("metadata_props") if hasattr(value, "metadata_props") else None
    proto.graph.ClearField("value_info")
    onnx.save(proto, HERE / f"{name}.onnx")
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    np.savez_compressed(HERE / f"{name}.npz", x=x.numpy(), y=y)


if __name__ == "__main__":
    for each in sys.argv[1:] or MODELS:
        export(each)
