// convert: blocks of elements of any dtype to and from double or int64, in which the base kernels compute.
#pragma once
#include "simd.h"

void to_f64(int32_t dtype, const void *from, int64_t n, double *to);
void to_i64(int32_t dtype, const void *from, int64_t n, int64_t *to);    // integers, bool; floats lose their fraction
void from_f64(int32_t dtype, const double *from, int64_t n, void *to);   // to a float, bool or i32
void from_i64(int32_t dtype, const int64_t *from, int64_t n, void *to);  // integers wrap

namespace {
WNN_INLINE bool is_float(int32_t dtype) { return dtype == WNN_F32 || dtype == WNN_F64 || dtype == WNN_F16 || dtype == WNN_BF16; }
}
