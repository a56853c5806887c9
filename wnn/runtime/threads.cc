// wnn: once
// The thread pool: one for the process, taken by try-lock, at rest in a futex.
//
// A job is a row of chunks of tasks. One 64-bit word, the ticket, says all about it:
//     epoch:32 | seats:8 | chunks:12 | next:12
// A thread claims chunk `next` by compare-and-swap, a worker's first claim takes a seat too: its worker number. The
// job's other fields are read before the swap; success proves that the job was still open and they were its own.
// The caller takes part and waits only for chunks that somebody has claimed.
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "executor.h"
#include "simd.h"

namespace {

constexpr int SPINS = 2000;
constexpr int64_t MAX_CHUNKS = 4095;
constexpr size_t STACK_BYTES = 2 << 20;

struct Job {
  void (*body)(void *, int64_t, int);
  void *arg;
  int64_t n_tasks;
  int32_t workers;
};

struct Worker { pthread_t thread; int seat; };

struct Pool {
  alignas(64) uint64_t ticket;
  alignas(64) Job job;
  alignas(64) int32_t unfinished;  // chunks of the job that are not done
  int32_t caller_sleeps;
  alignas(64) int32_t sleepers;
  alignas(64) int32_t busy;
  int32_t started;
  Worker workers[WNN_MAX_THREADS];
} pool;

template <class T> T get(const T &x) { return __atomic_load_n(&x, __ATOMIC_RELAXED); }
template <class T> void set(T &x, T v) { __atomic_store_n(&x, v, __ATOMIC_RELAXED); }

constexpr uint64_t SEAT = 1 << 24, CHUNK = 1 << 12;
uint32_t epoch(uint64_t t) { return uint32_t(t >> 32); }
int seats(uint64_t t) { return int(t >> 24 & 255); }
int64_t chunks(uint64_t t) { return int64_t(t >> 12 & 4095); }
int64_t next(uint64_t t) { return int64_t(t & 4095); }

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  asm volatile("yield");
#endif
}

void futex_wait(void *word, uint32_t value) { syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, nullptr, nullptr, 0); }
void futex_wake(void *word, int n) { syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, n, nullptr, nullptr, 0); }

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the futex of the epoch is the ticket's upper half");
void *epoch_word() { return (char *)&pool.ticket + 4; }

// Claims the next chunk of t's job, and with seat = SEAT a worker number, seats(t) then, below workers.
// -1: no chunk or seat is left, or the job is over.
int64_t claim(uint64_t &t, uint64_t seat, int workers) {
  const uint32_t e = epoch(t);
  while (epoch(t) == e && next(t) < chunks(t) && (!seat || seats(t) + 1 < workers))
    if (__atomic_compare_exchange_n(&pool.ticket, &t, t + 1 + seat, true, __ATOMIC_SEQ_CST, __ATOMIC_ACQUIRE)) {
      const int64_t chunk = next(t);
      t += 1 + seat;
      return chunk;
    }
  return -1;
}

void work(const Job &job, uint64_t t, int64_t chunk, int worker) {
  const int64_t n = chunks(t), each = job.n_tasks / n, rest = job.n_tasks % n;
  int32_t done = 0;
  for (; chunk >= 0; chunk = claim(t, 0, 0), done++) {
    const int64_t end = each * (chunk + 1) + rest * (chunk + 1) / n;
    for (int64_t task = each * chunk + rest * chunk / n; task < end; task++) job.body(job.arg, task, worker);
  }
  leave_vectors(wnn_host_api());
  if (__atomic_sub_fetch(&pool.unfinished, done, __ATOMIC_SEQ_CST) == 0 &&
      __atomic_load_n(&pool.caller_sleeps, __ATOMIC_SEQ_CST))
    futex_wake(&pool.unfinished, 1);
}

void *worker_main(void *arg) {
  Worker &self = *(Worker *)arg;
  set(self.thread, pthread_self());
  for (;;) {
    uint64_t t = __atomic_load_n(&pool.ticket, __ATOMIC_ACQUIRE);
    const uint32_t e = epoch(t);
    const Job job = {get(pool.job.body), get(pool.job.arg), get(pool.job.n_tasks), get(pool.job.workers)};
    if (const int64_t chunk = claim(t, SEAT, job.workers); chunk >= 0) work(job, t, chunk, self.seat = seats(t));
    for (int i = 0; i < SPINS && epoch(get(pool.ticket)) == e; i++) relax();
    if (epoch(get(pool.ticket)) != e) continue;
    __atomic_add_fetch(&pool.sleepers, 1, __ATOMIC_SEQ_CST);
    futex_wait(epoch_word(), e);
    __atomic_sub_fetch(&pool.sleepers, 1, __ATOMIC_SEQ_CST);
  }
}

// Workers are started when first needed; signals are left to the threads that the program knows of.
void start_workers(int n) {
  if (pool.started >= n) return;
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pthread_attr_t attr;
  pthread_attr_init(&attr);
  pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
  pthread_attr_setstacksize(&attr, STACK_BYTES);
  for (pthread_t thread; pool.started < n; set(pool.started, pool.started + 1))
    if (pthread_create(&thread, &attr, worker_main, &pool.workers[pool.started])) break;
  pthread_attr_destroy(&attr);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

// The number of the worker that calls from inside a task; other threads are number 0 of their own calls.
int current_worker() {
  const pthread_t self = pthread_self();
  for (int i = 0; i < get(pool.started); i++)
    if (get(pool.workers[i].thread) == self) return pool.workers[i].seat;
  return 0;
}

void wait_for_workers() {
  for (int i = 0; i < SPINS && get(pool.unfinished); i++) relax();
  if (!__atomic_load_n(&pool.unfinished, __ATOMIC_ACQUIRE)) return;
  __atomic_store_n(&pool.caller_sleeps, 1, __ATOMIC_SEQ_CST);
  while (const int32_t n = __atomic_load_n(&pool.unfinished, __ATOMIC_SEQ_CST)) futex_wait(&pool.unfinished, n);
  set(pool.caller_sleeps, 0);
}

// In the child of a fork only the forking thread is left, and it is not inside a job.
void reset_in_child() { memset((void *)&pool, 0, sizeof pool); }
__attribute__((constructor)) void watch_forks() { pthread_atfork(nullptr, nullptr, reset_in_child); }

}  // namespace

void wnn_parallel_for(wnn_ctx *ctx, int64_t n_tasks, void (*body)(void *arg, int64_t task, int worker), void *arg) {
  const int workers = int(n_tasks < ctx->num_threads ? n_tasks : ctx->num_threads);
  if (workers <= 1 || __atomic_exchange_n(&pool.busy, 1, __ATOMIC_ACQUIRE)) {
    const int worker = ctx->num_threads > 1 ? current_worker() : 0;
    for (int64_t task = 0; task < n_tasks; task++) body(arg, task, worker);
    return;
  }
  start_workers(workers - 1);
  const Job job = {body, arg, n_tasks, workers};
  set(pool.job.body, body);
  set(pool.job.arg, arg);
  set(pool.job.n_tasks, n_tasks);
  set(pool.job.workers, workers);
  const int64_t n_chunks = n_tasks < MAX_CHUNKS ? n_tasks : MAX_CHUNKS;
  set(pool.unfinished, int32_t(n_chunks));
  // the first chunk is the caller's
  const uint64_t t = (uint64_t(epoch(get(pool.ticket)) + 1) << 32) + uint64_t(n_chunks) * CHUNK + 1;
  __atomic_store_n(&pool.ticket, t, __ATOMIC_SEQ_CST);
  if (__atomic_load_n(&pool.sleepers, __ATOMIC_SEQ_CST)) futex_wake(epoch_word(), workers - 1);
  work(job, t, 0, 0);
  wait_for_workers();
  __atomic_store_n(&pool.busy, 0, __ATOMIC_RELEASE);
}
