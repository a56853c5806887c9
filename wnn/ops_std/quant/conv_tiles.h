// conv_tiles.h: what conv.cc, compiled once, takes from conv_tiles.cc in the build for the CPU.
#pragma once
#include "../../runtime/simd.h"

struct Tile {
  const uint8_t *a;
  const int64_t *rows;  // tap t of row r begins at a + rows[t*step + r]
  int64_t step, taps, kc;
  const int8_t *b;      // the first of the tile's panels
  int64_t panel;
  int32_t *c;
};

struct Tiles {
  static constexpr int sizes = 3, most_rows = 6, columns = 64;
  int rows[sizes], groups[sizes];               // of the tiles, from large to small; a group has `width` columns
  void (*tile[sizes][sizes])(const Tile &);     // by groups, by rows
  int width;
  int32_t (*sum)(const uint8_t *p, int64_t n);  // of bytes
  // Integers::finish of `end`
  void (*finish)(const void *end, int32_t *tile, int64_t ld, int64_t rows, int64_t row0, int64_t n0, int64_t cols, const int32_t *row_sums);
};

size_t conv_quantized_bytes(const void *attrs, const wnn_tensor *x, const wnn_tensor *y);
int run_conv_quantized(const Tiles &tiles, wnn_ctx *ctx, const void *attrs, const wnn_tensor *const *in, int nin, const wnn_tensor *y);
