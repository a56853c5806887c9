"""wnn_abi.h keeps its layout: fields are only ever added at the end of a struct.

LAYOUT is what packages were built against: struct, size, and each field with its offset. A changed
offset needs a new major version; a new field is added here together with a new minor version.
"""

import ctypes
import subprocess
from pathlib import Path

import pytest

import wnn
from wnn.runtime import _core

RUNTIME = Path(wnn.__file__).parent / "runtime"
VERSION = (0, 2)
LAYOUT = """
wnn_tensor 152: data 0 dtype 8 ndim 12 flags 16 layout 20 shape 24 strides 88
wnn_ctx 32: struct_size 0 num_threads 4 api 8 scratch 16 scratch_bytes 24
wnn_post 32: kind 0 reserved 4 a 8 b 12 data 16 ld 24
wnn_gemm_call 128: struct_size 0 b_layout 4 M 8 N 16 K 24 A 32 lda 40 a_rows 48 B 56 b_row 64
  b_col 72 C 80 ldc 88 c_rows 96 post 104 n_post 112 threads 116 scratch 120
wnn_attention_call 264: struct_size 0 flags 4 B 8 H 16 Tq 24 Tk 32 D 40 Dv 48 q 56 k 64 v 72 out
  80 q_strides 88 k_strides 112 v_strides 136 out_strides 160 scale 184 threads 188 mask 192
  mask_strides 200 hook 232 hook_arg 240 scratch 248 product 256
wnn_api 96: struct_size 0 abi_major 4 abi_minor 6 isa 8 cpu_features 12 register_kernel 16
  parallel_for 24 error 32 pack_bytes 40 pack 48 unpack 56 gemm_scratch_bytes 64 gemm 72
  attention_scratch_bytes 80 attention 88
wnn_plugin_info 12: struct_size 0 abi_major 4 abi_minor 6 host_minor 8 reserved 10
"""
STRUCTS = LAYOUT.replace("\n  ", " ").strip().splitlines()


def probe():
    """A program that prints the layout of the fields that LAYOUT names."""
    lines = []
    for struct in STRUCTS:
        head, fields = struct.split(":")
        name = head.split()[0]
        lines.append(f'printf("{name} %zu:", sizeof({name}));')
        for field in fields.split()[::2]:
            lines.append(f'printf(" {field} %zu", offsetof({name}, {field}));')
        lines.append('puts("");')
    body = "\n  ".join(lines)
    return (
        f'#include <stdio.h>\n#include "wnn_abi.h"\nint main(void) {{\n  {body}\n  return 0;\n}}\n'
    )


@pytest.mark.parametrize(("suffix", "standard"), [("c", "c99"), ("cc", "c++17")])
def test_abi_layout_is_the_one_packages_were_built_for(tmp_path, suffix, standard):
    source = tmp_path / f"probe.{suffix}"
    source.write_text(probe())
    strict = [f"-std={standard}", "-pedantic-errors", "-Wall", "-Wextra", "-Werror"]
    compiler = "cc" if suffix == "c" else "c++"
    target = str(tmp_path / "probe")
    subprocess.run([compiler, *strict, f"-I{RUNTIME}", str(source), "-o", target], check=True)
    found = subprocess.run([target], capture_output=True, text=True, check=True).stdout
    assert found.splitlines() == STRUCTS


def test_api_begins_with_its_size_and_version():
    address = _core.api_address()
    size = ctypes.c_uint32.from_address(address).value
    version = tuple((ctypes.c_uint16 * 2).from_address(address + 4))
    assert version == VERSION
    assert f"wnn_api {size}:" in LAYOUT
