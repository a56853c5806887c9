/* wnn_abi.h: the C ABI between wnn's core and op packages.
 *
 * C99, self-contained, append-only. A package is a shared library that exports
 *     const wnn_plugin_info wnn_plugin;
 *     int wnn_plugin_init(const wnn_api *api);
 * and calls api->register_kernel for each of its kernels. It links against nothing of wnn.
 *
 * Versioning: a package is accepted when the majors are equal and the host's minor is at least the one it needs.
 * Fields are only ever added at the end of a struct; struct_size tells how much is there.
 * Until 1.0 the major may change. No C++ type, exception or allocator crosses this boundary.
 *
 * Sizes and strides are in elements; byte counts end in _bytes.
 */
#ifndef WNN_ABI_H
#define WNN_ABI_H
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

#define WNN_ABI_MAJOR 0
#define WNN_ABI_MINOR 2
#define WNN_MAX_DIMS 8

/* dtype numbers are those of ONNX TensorProto.DataType */
enum {
  WNN_F32 = 1, WNN_U8 = 2, WNN_I8 = 3, WNN_U16 = 4, WNN_I16 = 5, WNN_I32 = 6, WNN_I64 = 7, WNN_BOOL = 9,
  WNN_F16 = 10, WNN_F64 = 11, WNN_U32 = 12, WNN_U64 = 13, WNN_BF16 = 16
};

/* tensor flags */
enum { WNN_CONTIGUOUS = 1, WNN_CONSTANT = 2 };

/* layouts of packed constants: the canonical one is panels of 16 columns, [ceil(N/16)][K][16], zero-padded */
enum { WNN_PLAIN = 0, WNN_PANEL16 = 1 };

/* instruction sets a kernel may be built for, in order of preference */
enum { WNN_ISA_BASELINE = 0, WNN_ISA_AVX2 = 1, WNN_ISA_AVX512 = 2, WNN_ISA_COUNT = 3 };

/* api->cpu_features */
enum { WNN_CPU_AVX2_FMA = 1, WNN_CPU_AVX512 = 2, WNN_CPU_VNNI = 4, WNN_CPU_AVX_VNNI = 8, WNN_CPU_BF16 = 16, WNN_CPU_VBMI = 32,
       WNN_CPU_FMA512 = 64 /* 512-bit multiply-adds at the rate of 256-bit ones */ };

typedef struct wnn_tensor {
  void *data;
  int32_t dtype, ndim;
  uint32_t flags, layout;
  int64_t shape[WNN_MAX_DIMS];    /* logical shape, also of packed constants */
  int64_t strides[WNN_MAX_DIMS];  /* in elements; 0 repeats; meaningless where layout is not WNN_PLAIN */
} wnn_tensor;

typedef struct wnn_api wnn_api;

/* One call's surroundings. Valid during the call only. */
typedef struct wnn_ctx {
  uint32_t struct_size;
  int32_t num_threads;     /* at most so many workers, numbered from 0, run at once in parallel_for */
  const wnn_api *api;
  void *scratch;           /* 64-byte aligned, as many bytes as the kernel's wnn_scratch_fn asked for */
  size_t scratch_bytes;
} wnn_ctx;

/* Returns 0, or what ctx->api->error returned. attrs: the bytes that the operator's Python side packed. An absent
 * optional input is a null pointer. Inputs are never written, except that out[i]->data may equal an input's data
 * where the operator declared in-place use. */
typedef int (*wnn_kernel)(wnn_ctx *ctx, const void *attrs, const wnn_tensor *const *in, int nin,
                          wnn_tensor *const *out, int nout);
/* Bytes of scratch the kernel needs for these shapes (data pointers are null). May be NULL: none. */
typedef size_t (*wnn_scratch_fn)(const void *attrs, const wnn_tensor *const *in, int nin,
                                 const wnn_tensor *const *out, int nout, int num_threads);

/* Post-operations of a GEMM or convolution, applied in order to each finished tile. */
enum {
  WNN_POST_BIAS = 1,      /* + vec[n] */
  WNN_POST_ADD = 2,       /* + mat[row, n], row stride ld; rows are numbered as C's (through c_rows if given) */
  WNN_POST_MUL = 3,       /* * mat[row, n] */
  WNN_POST_RELU = 4, WNN_POST_CLIP = 5 /* [a, b] */, WNN_POST_LEAKY = 6 /* a: slope */, WNN_POST_SIGMOID = 7,
  WNN_POST_TANH = 8, WNN_POST_SILU = 9, WNN_POST_GELU = 10 /* erf */, WNN_POST_GELU_TANH = 11,
  WNN_POST_HARD_SWISH = 12, WNN_POST_HARD_SIGMOID = 13 /* clip(a*x+b, 0, 1) */, WNN_POST_SCALE = 14 /* a*x+b */,
  WNN_POST_PRELU = 15,    /* slope vec[n] */
  WNN_POST_CHANNEL_MUL = 16 /* * vec[n] */
};
typedef struct wnn_post {
  int32_t kind, reserved;
  float a, b;
  const float *data;      /* vec or mat */
  int64_t ld;             /* row stride of mat */
} wnn_post;

/* C[M,N] = post(A[M,K] * B[K,N]), float32. A's and C's rows are contiguous along K and N. */
typedef struct wnn_gemm_call {
  uint32_t struct_size;
  int32_t b_layout;       /* WNN_PANEL16, or WNN_PLAIN with the two strides below */
  int64_t M, N, K;
  const float *A; int64_t lda;
  const int32_t *a_rows;  /* row m of A is at A + a_rows[m]*lda; NULL: m. A negative entry is a row of zeros */
  const float *B; int64_t b_row, b_col;  /* WNN_PLAIN: B[k,n] = B[k*b_row + n*b_col] */
  float *C; int64_t ldc;
  const int32_t *c_rows;  /* row m is written to C + c_rows[m]*ldc; NULL: m. A negative entry is not written */
  const wnn_post *post; int32_t n_post;
  int32_t threads;        /* 0: use ctx->num_threads; 1: run in the caller (for use inside parallel_for) */
  void *scratch;          /* api->gemm_scratch_bytes bytes, 64-byte aligned */
} wnn_gemm_call;

enum {
  WNN_ATTENTION_CAUSAL = 1,   /* key j is visible to query i when j <= i + (Tk - Tq) */
  WNN_ATTENTION_GUARDED = 2,  /* rows of out that would be NaN are 0 */
  WNN_ATTENTION_ROWS = 64     /* the most that hook and product are given at a time */
};

/* out = softmax(scale * product(Q K^T) + mask + hook) V, by blocks of query rows, float32. The last axis (D, Dv) is
 * contiguous; the other axes (batch, time, head) have strides in elements, in that order. */
typedef struct wnn_attention_call {
  uint32_t struct_size;
  int32_t flags;          /* of WNN_ATTENTION_* */
  int64_t B, H, Tq, Tk, D, Dv;
  const float *q, *k, *v; float *out;
  int64_t q_strides[3], k_strides[3], v_strides[3], out_strides[3];
  float scale; int32_t threads;   /* threads: as in wnn_gemm_call */
  const float *mask;      /* additive, or NULL; may hold -inf */
  int64_t mask_strides[4];/* batch, head, query, key; 0 repeats */
  /* Called for each block of finished, scaled and masked scores before the softmax; may be NULL.
   * scores[i*ld + j] belongs to query q0 + i, key j. */
  void (*hook)(void *arg, float *scores, int64_t ld, int64_t b, int64_t h, int64_t q0, int64_t rows, int64_t Tk, int worker);
  void *hook_arg;
  void *scratch;          /* api->attention_scratch_bytes bytes, 64-byte aligned */
  /* Since 0.2. Called before each block's Q K^T is made; may be NULL. Writes the post-operations of that product, 4 at most,
   * and returns how many: row i of a matrix belongs to query q0 + i, column j to key j. They are read up to Tk rounded up
   * to 16, whatever lies there. As in a GEMM, a bias and then a matrix to add cost next to nothing. It counts for
   * attention_scratch_bytes. */
  int (*product)(void *hook_arg, wnn_post *post, int64_t b, int64_t h, int64_t q0, int64_t rows, int64_t Tk, int worker);
} wnn_attention_call;

struct wnn_api {
  uint32_t struct_size;
  uint16_t abi_major, abi_minor;
  int32_t isa;            /* WNN_ISA_*: the one in force */
  uint32_t cpu_features;
  /* Makes a kernel known under a name ("domain:kernel"); of several ISAs the best that the CPU has is used.
   * Returns 0, or non-zero when the name or ISA is refused. */
  int (*register_kernel)(const wnn_api *api, const char *name, int isa, wnn_kernel fn, wnn_scratch_fn scratch);
  /* Runs body(arg, task, worker) for every task in [0, n_tasks), on up to ctx->num_threads workers including the
   * caller. Tasks must be independent; their numbering is the partition, so results never depend on who runs them. */
  void (*parallel_for)(wnn_ctx *ctx, int64_t n_tasks, void (*body)(void *arg, int64_t task, int worker), void *arg);
  /* Records a message for the WnnError that the user sees; returns the value the kernel must return. */
  int (*error)(wnn_ctx *ctx, const char *format, ...);
  size_t (*pack_bytes)(int layout, int dtype, int64_t K, int64_t N);
  /* B[k,n] = b[k*b_row + n*b_col], to and from the packed layout */
  int (*pack)(int layout, int dtype, int64_t K, int64_t N, const void *b, int64_t b_row, int64_t b_col, void *packed);
  int (*unpack)(int layout, int dtype, int64_t K, int64_t N, const void *packed, void *b, int64_t b_row, int64_t b_col);
  size_t (*gemm_scratch_bytes)(const wnn_gemm_call *call, int num_threads);
  int (*gemm)(wnn_ctx *ctx, const wnn_gemm_call *call);
  size_t (*attention_scratch_bytes)(const wnn_attention_call *call, int num_threads);
  int (*attention)(wnn_ctx *ctx, const wnn_attention_call *call);
};

/* What a package exports under the name wnn_plugin: the ABI it was built for, and the oldest host minor it can do
 * with: its own, or an older one where it looks at api->struct_size before it uses what came later. */
typedef struct wnn_plugin_info {
  uint32_t struct_size;
  uint16_t abi_major, abi_minor, host_minor, reserved;
} wnn_plugin_info;

/* What a package exports under the name wnn_plugin_init. Returns 0; or non-zero to decline (an unsupported host), and is then not used. */
typedef int (*wnn_plugin_init_fn)(const wnn_api *api);

#ifdef __cplusplus
}
#endif
#endif
