// integer.h: what the convolutions of integers share: their attributes, and what becomes of a finished tile of sums.
//   x: u8, rows   scale: (M,) f32   bias?: (M,) i32   x_zero?: u8   x_scale?: f32   y: u8, f32, or i32 for the sums, rows
//   attrs: ConvAttrs, struct { float y_scale; int32_t y_zero, shift, zero; }, posts
#pragma once
#include "../conv/conv.h"
#include "../bytes.h"

namespace {

enum { X, W, SCALE, BIAS, X_ZERO, X_SCALE };  // inputs

struct Integers {
  const wnn_tensor *const *in;
  int nin;
  int64_t N, padded;  // columns, and those with room for whole vectors behind them
  const wnn_tensor *y;
  uint8_t zero;
  PostList posts;
  int32_t y_zero, shift;
  float y_scale, low, high;  // low, high: bounds of round(y / y_scale)
  bool whole;                        // posts remain for the whole tile
  float *scale;
  int32_t *bias;

  const void *data(int i) const { return i < nin && in[i] ? in[i]->data : nullptr; }
  static int64_t room(int64_t N) { return ceil_div(N, 16) * 16 + 16; }
  static size_t bytes(const wnn_tensor *out) { return size_t(room(last_dim(out))) * 8; }

  // nin: of inputs before the derived ones; sums: (N,) of the weights' columns of K rows; memory: `bytes` of it
  Integers(const void *attrs, const wnn_tensor *const *in, int nin, const wnn_tensor *out, const int32_t *sums, int64_t K, void *memory)
      : in(in), nin(nin), N(last_dim(out)), padded(room(N)), y(out),
        posts((const char *)attrs + posts_offset + 16, nullptr, in), scale((float *)memory), bias((int32_t *)memory + padded) {
    const float *const given = f32(in[SCALE]), *const x_scale = (const float *)data(X_SCALE);
    const int32_t *const own = (const int32_t *)data(BIAS);
    shift = attr<int32_t>(attrs, posts_offset + 8);
    zero = data(X_ZERO) ? *(const uint8_t *)data(X_ZERO) : 0;
    for (int64_t n = 0; n < N; n++) {
      scale[n] = x_scale ? given[n] * *x_scale : given[n];
      bias[n] = int32_t((own ? own[n] : 0) - zero * (sums[n] + shift * K));
    }
    memset(scale + N, 0, size_t(padded - N) * 4);
    memset(bias + N, 0, size_t(padded - N) * 4);
    y_scale = attr<float>(attrs, posts_offset), y_zero = attr<int32_t>(attrs, posts_offset + 4);
    low = -INFINITY, high = INFINITY;
    if (u8()) low = float(-y_zero), high = float(255 - y_zero);
    const wnn_post *const p = posts.post;
    whole = posts.n > 1 || (posts.n == 1 && ((p->kind != WNN_POST_CLIP && p->kind != WNN_POST_RELU) || y_scale != 1));
    if (posts.n == 1 && !whole) {
      const bool clip = p->kind == WNN_POST_CLIP;
      low = fmaxf(low, clip ? p->a : 0), high = fmaxf(low, fminf(high, clip ? p->b : INFINITY));
    }
  }
  bool u8() const { return y->dtype == WNN_U8; }

  // rows of sums from `tile` on, of the columns n0 to n0 + cols, as rows of y from row0 on. row_sums: of x, for the shift
  void finish(int32_t *tile, int64_t ld, int64_t rows, int64_t row0, int64_t n0, int64_t cols, const int32_t *row_sums) const {
    const int64_t ldc = row_stride(y);
    for (int64_t r = 0; r < rows; r++) {
      int32_t *const from = tile + r * ld;
      const int64_t at = (row0 + r) * ldc + n0;
      const int32_t more = shift ? shift * row_sums[r] : 0;
      for (int64_t j = 0; j < cols; j += L) {
        const int64_t n = min_of(L, cols - j);
        const vi sum = *(const vi_u *)(from + j) + *(const vi_u *)(bias + n0 + j) + more;
        if (y->dtype == WNN_I32) {
          store_int((int32_t *)y->data + at + j, sum, n);
          continue;
        }
        const vf v = __builtin_convertvector(sum, vf) * load(scale + n0 + j);
        if (whole) store((float *)from + j, v);
        else put(at + j, v, n);
      }
    }
    if (!whole) return;
    const PostList own(posts, n0);
    post_tile(own.post, own.n, (float *)tile, ld, row0, nullptr, rows, 0, cols);
    for (int64_t r = 0; r < rows; r++)
      for (int64_t j = 0; j < cols; j += L) put((row0 + r) * ldc + n0 + j, load((float *)tile + r * ld + j), min_of(L, cols - j));
  }
  __attribute__((always_inline)) void put(int64_t at, vf v, int64_t n) const {
    if (u8()) {
      if (y_scale != 1) v /= y_scale;
      return store_int((uint8_t *)y->data + at, nearest(clamp(v, low, high)) + y_zero, n);
    }
    if (!whole) v = clamp(v, low, high);
    if (n == L) store(f32(y) + at, v);
    else store_n(f32(y) + at, v, n);
  }
};

}  // namespace
