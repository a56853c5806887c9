// attention.h: what attention.cc, compiled once, takes from attention_rows.cc in the build for the CPU.
#pragma once
#include <stdint.h>

struct AttentionRows {
  // s = exp2(factor * (s - its row's maximum)) over columns [0, n), sums: of the rows; the rows up to a multiple of four are written
  void (*softmax)(float *s, int64_t ld, int64_t rows, int64_t n, float factor, float *sums);
  // s = scale * s + mask (null: none), whose rows and columns lie `row` and `column` apart
  void (*scale_and_mask)(float *s, int64_t ld, int64_t rows, int64_t n, float scale, const float *mask, int64_t row, int64_t column);
  // y /= sums; guarded: 0 where a sum is not positive; hidden: where it is 0, as of a row that is -inf throughout
  void (*divide)(float *y, int64_t ld, int64_t rows, int64_t n, const float *sums, bool guarded, bool hidden);
};
extern void (*wnn_attention_rows)(void);  // host.cc: the best build's function that gives them
