// A CUDA block on the processor, for tests: threads are fibers that take turns at barriers, blocks a loop.
// Asynchronous copies happen as late as their waits allow, and tensor-core products are computed from the
// fragments' layouts in the PTX manual, so that a missing wait or a wrong layout shows.
#pragma once
#include <cmath>
#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ucontext.h>
#include <vector>

#define KQO_HOST
#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define KQO_DEVICE static inline
#define KQO_SHARED(name) unsigned char* name = kqo::shared
#define KQO_INF INFINITY
#define KQO_NAN NAN

struct int2 { int x, y; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct dim3_ { unsigned x, y, z; };
static dim3_ threadIdx, blockIdx, blockDim, gridDim;

namespace kqo {
constexpr int MOST = 1024, STACK = 256 << 10;
struct Copy { void* to; const void* from; int bytes; bool wanted; };
struct Fiber {
    jmp_buf place;
    bool started, done;
    std::vector<std::vector<Copy>> groups;
    std::vector<Copy> open;
};
static unsigned char* shared;
static Fiber fibers[MOST];
static char* stacks;
static int count, current, live;
static int arrived, generation;
static int warp_arrived[MOST / 32], warp_generation[MOST / 32], warp_live[MOST / 32];
static ucontext_t home, starts[MOST];
static void (*body)();

static void go(int next)
{
    current = next;
    threadIdx.x = next;
    if (fibers[next].started) _longjmp(fibers[next].place, 1);
    fibers[next].started = true;
    setcontext(&starts[next]);
}
// Gives way to the next thread that is not done.
static void yield()
{
    int self = current, next = current;
    do next = (next + 1) % count; while (fibers[next].done);
    if (next == self) return;
    if (_setjmp(fibers[self].place) == 0) go(next);
}
static void release()
{
    if (live && arrived == live) arrived = 0, ++generation;
}
static void release_warp(int w)
{
    if (warp_live[w] && warp_arrived[w] == warp_live[w]) warp_arrived[w] = 0, ++warp_generation[w];
}
static void entry()
{
    body();
    if (!fibers[current].open.empty() || !fibers[current].groups.empty()) {
        fprintf(stderr, "thread %d ends with copies under way\n", current);
        abort();
    }
    fibers[current].done = true;
    --live, --warp_live[current / 32];
    release(), release_warp(current / 32);
    if (live == 0) setcontext(&home);
    int next = current;
    do next = (next + 1) % count; while (fibers[next].done);
    go(next);
}
static void warp_barrier()
{
    int w = current / 32, seen = warp_generation[w];
    ++warp_arrived[w];
    release_warp(w);
    while (warp_generation[w] == seen) yield();
}
static void run_block(int threads)
{
    if (!stacks) stacks = (char*)malloc((size_t)MOST * STACK);
    count = live = threads;
    arrived = 0;
    for (int i = 0; i < threads; ++i) {
        Fiber& f = fibers[i];
        f.started = f.done = false;
        f.groups.clear(), f.open.clear();
        if (i % 32 == 0) warp_arrived[i / 32] = 0, warp_live[i / 32] = 0;
        ++warp_live[i / 32];
        getcontext(&starts[i]);
        starts[i].uc_stack.ss_sp = stacks + (size_t)i * STACK;
        starts[i].uc_stack.ss_size = STACK;
        starts[i].uc_link = nullptr;
        makecontext(&starts[i], entry, 0);
    }
    volatile bool began = false;
    getcontext(&home);
    if (!began) {
        began = true;
        go(0);
    }
}
static void run_grid(void (*kernel)(), const int* grid, int threads, int shared_bytes)
{
    body = kernel;
    blockDim = {(unsigned)threads, 1, 1};
    gridDim = {(unsigned)grid[0], (unsigned)grid[1], (unsigned)grid[2]};
    std::vector<float4> memory(shared_bytes / 16 + 2);
    shared = (unsigned char*)memory.data();
    for (unsigned z = 0; z < gridDim.z; ++z)
        for (unsigned y = 0; y < gridDim.y; ++y)
            for (unsigned x = 0; x < gridDim.x; ++x) {
                memset(shared, 0xff, shared_bytes);  // NaN, as nothing may rely on old contents
                blockIdx = {x, y, z};
                run_block(threads);
                float4 canary = memory[shared_bytes / 16 + 1];
                if (canary.x || canary.w) fprintf(stderr, "beyond shared memory\n"), abort();
            }
}

static float half(unsigned bits)
{
    int sign = bits >> 15 & 1, exponent = bits >> 10 & 31, mantissa = bits & 1023;
    float v = exponent == 31 ? (mantissa ? NAN : INFINITY)
            : exponent ? std::ldexp(1024.f + mantissa, exponent - 25)
                       : std::ldexp((float)mantissa, -24);
    return sign ? -v : v;
}
static unsigned to_half(float v)
{
    unsigned sign = std::signbit(v) ? 0x8000u : 0;
    float a = std::fabs(v);
    if (a != a) return sign | 0x7fff;
    if (a >= 65520.f) return sign | 0x7c00;
    if (a < std::ldexp(1.f, -14)) return sign | (unsigned)std::nearbyint(std::ldexp(a, 24));
    int e;
    std::frexp(a, &e);  // a = m * 2^e, m in [1/2, 1)
    unsigned scaled = (unsigned)std::nearbyint(std::ldexp(a, 11 - e));  // 1024 to 2048
    return sign | (((unsigned)(e + 14) << 10) + scaled - 1024u);
}
static float tf32(unsigned bits)
{
    float v;
    memcpy(&v, &bits, 4);
    return v;
}

// Fragments that the lanes of each warp hand in for a product.
struct Lane { unsigned a[4], b[4]; float d[8]; };
static Lane lanes[MOST];
template <int A, int B, int D>
static void hand_in(const float* d, const unsigned* a, const unsigned* b)
{
    memcpy(lanes[current].a, a, A * 4);
    memcpy(lanes[current].b, b, B * 4);
    memcpy(lanes[current].d, d, D * 4);
    warp_barrier();
}
static Lane& lane(int i) { return lanes[current / 32 * 32 + i]; }
static float pick(unsigned word, int which) { return half(which ? word >> 16 : word & 0xffff); }
}  // namespace kqo

struct half_t {
    unsigned short bits;
    operator float() const { return kqo::half(bits); }
    half_t& operator=(float v) { return bits = (unsigned short)kqo::to_half(v), *this; }
};

static void __syncthreads()
{
    int seen = kqo::generation;
    ++kqo::arrived;
    kqo::release();
    while (kqo::generation == seen) kqo::yield();
}

template <int BYTES>
KQO_DEVICE void copy_async(void* to, const void* from, bool wanted)
{
    if ((uintptr_t)to % BYTES || (wanted && (uintptr_t)from % BYTES)) {
        fprintf(stderr, "a copy of %d bytes that is not aligned\n", BYTES);
        abort();
    }
    if (BYTES == 2)
        *(short*)to = wanted ? *(const short*)from : 0;
    else
        kqo::fibers[kqo::current].open.push_back({to, from, BYTES, wanted});
}
KQO_DEVICE void copy_commit()
{
    kqo::Fiber& f = kqo::fibers[kqo::current];
    f.groups.push_back(f.open);
    f.open.clear();
}
template <int PENDING>
KQO_DEVICE void copy_wait()
{
    kqo::Fiber& f = kqo::fibers[kqo::current];
    while ((int)f.groups.size() > PENDING) {
        for (const kqo::Copy& c : f.groups.front())
            if (c.wanted) memcpy(c.to, c.from, c.bytes);
            else memset(c.to, 0, c.bytes);
        f.groups.erase(f.groups.begin());
    }
}

KQO_DEVICE unsigned to_tf32(float v)
{
    unsigned bits;
    memcpy(&bits, &v, 4);
    if ((bits & 0x7f800000u) != 0x7f800000u) bits += 0x1000u;  // to nearest, ties away from zero
    return bits & ~0x1fffu;
}
KQO_DEVICE unsigned to_half2(float low, float high)
{
    return kqo::to_half(low) | kqo::to_half(high) << 16;
}

// PTX: a lane is 4g + t. A holds (g, t), (g+8, t), (g, t+4), (g+8, t+4); B (t, g), (t+4, g);
// D (g, 2t), (g, 2t+1), (g+8, 2t), (g+8, 2t+1).
KQO_DEVICE void mma_tf32_16x8x8(float* d, const unsigned* a, const unsigned* b)
{
    kqo::hand_in<4, 2, 4>(d, a, b);
    float am[16][8], bm[8][8];
    for (int l = 0; l < 32; ++l)
        for (int i = 0; i < 4; ++i) {
            am[l / 4 + i % 2 * 8][l % 4 + i / 2 * 4] = kqo::tf32(kqo::lane(l).a[i]);
            if (i < 2) bm[l % 4 + i * 4][l / 4] = kqo::tf32(kqo::lane(l).b[i]);
        }
    kqo::warp_barrier();
    int l = kqo::current % 32;
    for (int i = 0; i < 4; ++i)
        for (int k = 0; k < 8; ++k) d[i] += am[l / 4 + i / 2 * 8][k] * bm[k][l % 4 * 2 + i % 2];
}
// A's four registers hold pairs of k at (g, 2t), (g+8, 2t), (g, 2t+8), (g+8, 2t+8); B's (2t, g), (2t+8, g).
KQO_DEVICE void mma_f16_16x8x16(float* d, const unsigned* a, const unsigned* b)
{
    kqo::hand_in<4, 2, 4>(d, a, b);
    float am[16][16], bm[16][8];
    for (int l = 0; l < 32; ++l)
        for (int i = 0; i < 4; ++i)
            for (int h = 0; h < 2; ++h) {
                am[l / 4 + i % 2 * 8][l % 4 * 2 + h + i / 2 * 8] = kqo::pick(kqo::lane(l).a[i], h);
                if (i < 2) bm[l % 4 * 2 + h + i * 8][l / 4] = kqo::pick(kqo::lane(l).b[i], h);
            }
    kqo::warp_barrier();
    int l = kqo::current % 32;
    for (int i = 0; i < 4; ++i)
        for (int k = 0; k < 16; ++k) d[i] += am[l / 4 + i / 2 * 8][k] * bm[k][l % 4 * 2 + i % 2];
}
// Quad pair p is the lanes 4p..4p+3 and 16+4p..16+4p+3. A: row lane % 4 (+ 4 in the upper half), k = i;
// B: k = i, column as A's row; D: row (lane & 1) + (i & 2) (+ 4), column (i & 4) + (lane & 2) + (i & 1).
KQO_DEVICE void mma_f16_8x8x4(float* d, const unsigned* a, const unsigned* b)
{
    kqo::hand_in<2, 2, 8>(d, a, b);
    int own = kqo::current % 32, p = own / 4 % 4;
    float am[8][4], bm[4][8];
    for (int s = 0; s < 8; ++s) {
        int l = s % 4 + 4 * p + (s >= 4 ? 16 : 0);
        for (int i = 0; i < 4; ++i) {
            am[s][i] = kqo::pick(kqo::lane(l).a[i / 2], i % 2);
            bm[i][s] = kqo::pick(kqo::lane(l).b[i / 2], i % 2);
        }
    }
    kqo::warp_barrier();
    for (int i = 0; i < 8; ++i) {
        int row = (own & 1) + (i & 2) + (own >= 16 ? 4 : 0);
        int column = (i & 4) + (own & 2) + (i & 1);
        for (int k = 0; k < 4; ++k) d[i] += am[row][k] * bm[k][column];
    }
}
