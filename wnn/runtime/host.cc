// wnn: once
// What kernels and packages see of the host: the CPU, the table of kernels, the api.
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "executor.h"
#include "gemm.h"
#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace {

wnn_api api;
constexpr uint32_t FEATURES_OF[WNN_ISA_COUNT] = {0, WNN_CPU_AVX2_FMA | WNN_CPU_AVX_VNNI, ~0u};
constexpr const char *ISA_NAMES[WNN_ISA_COUNT] = {"baseline", "avx2", "avx512"};

// ---- CPU ----
#if defined(__x86_64__)
bool bit(unsigned word, int i) { return word >> i & 1; }

// AMD from Zen 5 on but for laptops (Software Optimization Guide for Zen 5, 2.11), and what Intel makes for servers: the parts with
// AMX, Skylake and Ice Lake (Intel SDM 4, table 2-1). Others take two cycles' work for one, or one unit of two.
bool full_rate(unsigned signature, bool amx) {
  unsigned a, vendor = 0, c, d;
  __get_cpuid(0, &a, &vendor, &c, &d);
  const unsigned family = (signature >> 8 & 15) + (signature >> 20 & 255), model = (signature >> 4 & 15) | (signature >> 12 & 0xf0);
  if (vendor == signature_AMD_ebx) return family > 0x1a || (family == 0x1a && model >> 4 != 2 && model >> 4 != 6);
  return amx || model == 0x55 || model == 0x6a;
}

uint32_t cpu_features() {
  unsigned a, b, c, d, a7, b7, c7, d7, a71 = 0;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !bit(c, 27)) return 0;  // 27: OSXSAVE
  unsigned xcr0, high;
  asm("xgetbv" : "=a"(xcr0), "=d"(high) : "c"(0));
  if (!__get_cpuid_count(7, 0, &a7, &b7, &c7, &d7)) return 0;
  if (a7 >= 1) __get_cpuid_count(7, 1, &a71, &b, &high, &d);
  uint32_t features = 0;
  if ((xcr0 & 6) != 6 || !bit(c, 12) || !bit(c, 28) || !bit(c, 29) || !bit(b7, 5)) return 0;  // FMA AVX F16C AVX2
  features |= WNN_CPU_AVX2_FMA;
  if (bit(a71, 4)) features |= WNN_CPU_AVX_VNNI;
  if ((xcr0 & 0xe6) != 0xe6 || !bit(b7, 16) || !bit(b7, 17) || !bit(b7, 30) || !bit(b7, 31)) return features;  // F DQ BW VL
  features |= WNN_CPU_AVX512;
  if (bit(c7, 1)) features |= WNN_CPU_VBMI;
  if (bit(c7, 11)) features |= WNN_CPU_VNNI;
  if (bit(a71, 5)) features |= WNN_CPU_BF16;
  if (full_rate(a, bit(d7, 24))) features |= WNN_CPU_FMA512;
  return features;
}
#else
uint32_t cpu_features() { return 0; }
#endif

// ---- kernels: buckets of chains; the core's static entries and those that packages register ----
constexpr int BUCKETS = 1024;
wnn_kernel_entry *buckets[BUCKETS];

wnn_kernel_entry **bucket(const char *name) {
  uint32_t h = 2166136261u;  // FNV-1a
  for (; *name; name++) h = (h ^ uint8_t(*name)) * 16777619u;
  return &buckets[(h ^ h >> 16) % BUCKETS];
}

void add_kernel(wnn_kernel_entry *entry) {
  wnn_kernel_entry **head = bucket(entry->name);
  entry->next = __atomic_load_n(head, __ATOMIC_ACQUIRE);
  while (!__atomic_compare_exchange_n(head, &entry->next, entry, true, __ATOMIC_RELEASE, __ATOMIC_ACQUIRE)) {}
}

int register_kernel(const wnn_api *, const char *name, int isa, wnn_kernel fn, wnn_scratch_fn scratch) {
  if (!name || !strchr(name, ':') || !fn || isa < 0 || isa >= WNN_ISA_COUNT) return 1;
  for (const wnn_kernel_entry *e = __atomic_load_n(bucket(name), __ATOMIC_ACQUIRE); e; e = e->next)
    if (e->isa == isa && !strcmp(e->name, name)) return 1;
  const size_t bytes = strlen(name) + 1;  // of any length
  auto *entry = (wnn_kernel_entry *)malloc(sizeof(wnn_kernel_entry) + bytes);
  if (!entry) return 1;
  entry->fn = fn, entry->scratch = scratch, entry->isa = isa;
  memcpy((char *)entry + offsetof(wnn_kernel_entry, name), name, bytes);
  add_kernel(entry);
  return 0;
}

// ---- functions that exist once per ISA ----
enum { GEMM_BLOCK, GEMM_THIN, ATTENTION, ATTENTION_SCRATCH, ATTENTION_ROWS, PACK_PANEL, INTERLEAVE, FMA_PEAK, HOST_FUNCTIONS };
constexpr const char *HOST_NAMES[HOST_FUNCTIONS] = {"gemm_block", "gemm_thin", "attention", "attention_scratch_bytes", "attention_rows", "pack_panel_f32", "interleave", "fma_peak"};
void (*host_functions[HOST_FUNCTIONS][WNN_ISA_COUNT])(void);

void (*host_function(int which))(void) {
  for (int isa = api.isa; isa >= 0; isa--)
    if (host_functions[which][isa]) return host_functions[which][isa];
  return nullptr;
}

// ---- panels of 16 columns: [ceil(N/16)][K][16] ----
constexpr int64_t PANEL = 16;

size_t pack_bytes(int layout, int dtype, int64_t K, int64_t N) {
  int64_t n, bytes;
  if (layout != WNN_PANEL16 || dtype != WNN_F32 || K < 0 || N < 0 || N > INT64_MAX - PANEL) return 0;
  if (__builtin_mul_overflow((N + PANEL - 1) / PANEL * PANEL, K, &n) || __builtin_mul_overflow(n, 4, &bytes)) return 0;
  return size_t(bytes);
}

int pack(int layout, int dtype, int64_t K, int64_t N, const void *from, int64_t b_row, int64_t b_col, void *packed) {
  if (layout != WNN_PANEL16 || dtype != WNN_F32) return 1;
  for (int64_t n = 0; n < N; n += PANEL) pack_panel(K, min_of(PANEL, N - n), (const float *)from + n * b_col, b_row, b_col, (float *)packed + n * K);
  return 0;
}

int unpack(int layout, int dtype, int64_t K, int64_t N, const void *packed, void *to, int64_t b_row, int64_t b_col) {
  if (layout != WNN_PANEL16 || dtype != WNN_F32) return 1;
  const float *p = (const float *)packed;
  for (int64_t n0 = 0; n0 < N; n0 += PANEL) {
    const int64_t n = N - n0 < PANEL ? N - n0 : PANEL;
    float *b = (float *)to + n0 * b_col;
    for (int64_t k = 0; k < K; k++, b += b_row, p += PANEL)
      for (int64_t j = 0; j < n; j++) b[j * b_col] = p[j];
  }
  return 0;
}

// ---- CPU time that cgroups grant ----
// Reads two numbers, one from each file (or both from the first); "max" and absent files leave them as they are.
void read_quota(const char *root, const char *group, const char *file, const char *second, double &quota) {
  char path[4096];
  long long time = -1, period = -1;
  snprintf(path, sizeof path, "%s%s/%s", root, group, file);
  if (FILE *f = fopen(path, "re")) {
    if (fscanf(f, "%lld %lld", &time, &period) < 1) time = -1;
    fclose(f);
  }
  if (second) {
    snprintf(path, sizeof path, "%s%s/%s", root, group, second);
    if (FILE *f = fopen(path, "re")) {
      if (fscanf(f, "%lld", &period) < 1) period = -1;
      fclose(f);
    }
  }
  if (time > 0 && period > 0 && double(time) / double(period) < quota) quota = double(time) / double(period);
}

// The smallest quota of this process's control groups and all above them.
double cgroup_quota() {
  double quota = 1e9;
  FILE *f = fopen("/proc/self/cgroup", "re");
  if (!f) return quota;
  char line[4096];
  while (fgets(line, sizeof line, f)) {
    line[strcspn(line, "\n")] = 0;
    char *controllers = strchr(line, ':'), *group = controllers ? strchr(controllers + 1, ':') : nullptr;
    if (!group) continue;
    *group++ = 0;
    controllers++;
    const bool v2 = !*controllers;
    char list[4096];
    snprintf(list, sizeof list, ",%s,", controllers);
    if (!v2 && !strstr(list, ",cpu,")) continue;
    for (bool more = true; more;) {
      if (v2) read_quota("/sys/fs/cgroup", group, "cpu.max", nullptr, quota);
      else read_quota("/sys/fs/cgroup/cpu", group, "cpu.cfs_quota_us", "cpu.cfs_period_us", quota);
      char *slash = strrchr(group, '/');
      more = slash != nullptr;
      if (slash) *slash = 0;
    }
  }
  fclose(f);
  return quota;
}

double now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return double(t.tv_sec) + double(t.tv_nsec) * 1e-9;
}

}  // namespace

__attribute__((constructor)) static void list_kernels() {
  for (wnn_kernel_entry *e = __start_wnn_kernels; e < __stop_wnn_kernels; e++) add_kernel(e);
}

extern "C" void wnn_list_host_function(const char *name, int isa, void (*fn)(void)) {
  for (int i = 0; i < HOST_FUNCTIONS; i++)
    if (!strcmp(HOST_NAMES[i], name)) host_functions[i][isa] = fn;
}

void (*wnn_attention_rows)(void);
bool wnn_fma512;
void (*wnn_gemm_block)(const GemmBlock &);
void (*wnn_gemm_thin)(const wnn_gemm_call *, int64_t, int64_t, int64_t, int64_t);
void (*wnn_pack_panel)(int64_t, int64_t, const float *, int64_t, int64_t, float *);
void (*wnn_interleave)(const float *, const float *, const float *, int64_t, float *);

const wnn_api *wnn_host_api(void) { return &api; }
const char *wnn_host_isa_name(int isa) { return isa >= 0 && isa < WNN_ISA_COUNT ? ISA_NAMES[isa] : nullptr; }
uint32_t wnn_host_cpu_features(void) { return cpu_features(); }
int wnn_host_best_isa(void) {
  const uint32_t f = cpu_features();
  return f & WNN_CPU_AVX512 ? WNN_ISA_AVX512 : f & WNN_CPU_AVX2_FMA ? WNN_ISA_AVX2 : WNN_ISA_BASELINE;
}

void wnn_host_start(int isa) {
  api = {};
  api.struct_size = sizeof api;
  api.abi_major = WNN_ABI_MAJOR;
  api.abi_minor = WNN_ABI_MINOR;
  api.isa = isa;
  api.cpu_features = wnn_host_cpu_features() & FEATURES_OF[isa];
  wnn_fma512 = api.cpu_features & WNN_CPU_FMA512;
  api.register_kernel = register_kernel;
  api.parallel_for = wnn_parallel_for;
  api.error = wnn_ctx_error;
  api.pack_bytes = pack_bytes;
  api.pack = pack;
  api.unpack = unpack;
  api.gemm_scratch_bytes = gemm_scratch_bytes;
  api.gemm = gemm;
  wnn_gemm_block = (decltype(wnn_gemm_block))host_function(GEMM_BLOCK);
  wnn_gemm_thin = (decltype(wnn_gemm_thin))host_function(GEMM_THIN);
  wnn_pack_panel = (decltype(wnn_pack_panel))host_function(PACK_PANEL);
  wnn_interleave = (decltype(wnn_interleave))host_function(INTERLEAVE);
  api.attention_scratch_bytes = (decltype(api.attention_scratch_bytes))host_function(ATTENTION_SCRATCH);
  api.attention = (decltype(api.attention))host_function(ATTENTION);
  wnn_attention_rows = host_function(ATTENTION_ROWS);
}

void wnn_host_cpu_name(char name[49]) {
  name[0] = 0;
#if defined(__x86_64__)
  for (unsigned i = 0, r[4]; i < 3 && __get_cpuid(0x80000002 + i, &r[0], &r[1], &r[2], &r[3]); i++) {
    memcpy(name + 16 * i, r, 16);
    name[16 * i + 16] = 0;
  }
#endif
}

const wnn_kernel_entry *wnn_host_kernel(const char *name) {
  const wnn_kernel_entry *best = nullptr;
  for (const wnn_kernel_entry *e = __atomic_load_n(bucket(name), __ATOMIC_ACQUIRE); e; e = e->next)
    if (e->isa <= api.isa && (!best || e->isa > best->isa) && !strcmp(e->name, name)) best = e;
  return best;
}

void wnn_host_each_kernel(void (*visit)(void *arg, const char *name, int isa), void *arg) {
  for (int i = 0; i < BUCKETS; i++)
    for (const wnn_kernel_entry *e = __atomic_load_n(&buckets[i], __ATOMIC_ACQUIRE); e; e = e->next)
      if (wnn_host_kernel(e->name) == e) visit(arg, e->name, e->isa);
}

double wnn_host_fma_peak(double seconds) {
  const auto run = (int64_t(*)(int64_t))host_function(FMA_PEAK);
  double best = 0;
  for (const double end = now() + seconds; now() < end;) {
    const double start = now();
    const int64_t flops = run(20000);
    const double rate = double(flops) / (now() - start) * 1e-9;
    if (rate > best) best = rate;
  }
  return best;
}

int wnn_default_threads(void) {
  cpu_set_t set;
  int n = sched_getaffinity(0, sizeof set, &set) ? 1 : CPU_COUNT(&set);
  const double quota = cgroup_quota();
  if (quota < n) n = int(quota + 0.999);
  return n < 1 ? 1 : n > WNN_MAX_THREADS ? WNN_MAX_THREADS : n;
}
