// What every kernel here shares: types, loads, tensor-core instructions, and the adapters' epilogue.
// Sources are compiled by NVRTC without any header of CUDA's, so that none needs to be installed.
typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned long long u64;

#define DEVICE __device__ __forceinline__

DEVICE u32 smem_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }

// Byte permutation; volatile, so that the compiler keeps it ahead of the load that reuses its operand.
DEVICE u32 prmt(u32 a, u32 b, u32 selector) {
  u32 r;
  asm volatile("prmt.b32 %0,%1,%2,%3;" : "=r"(r) : "r"(a), "r"(b), "r"(selector));
  return r;
}

DEVICE float bf16_low(u32 pair) { return __uint_as_float(pair << 16); }
DEVICE float bf16_high(u32 pair) { return __uint_as_float(pair & 0xffff0000u); }
DEVICE u32 pack_bf16(float low, float high) {
  u32 r;
  asm("cvt.rn.bf16x2.f32 %0,%1,%2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}
DEVICE float2 unpack_f16(u32 pair) {
  float2 r;
  asm("{.reg .b16 l,h; mov.b32 {l,h},%2; cvt.f32.f16 %0,l; cvt.f32.f16 %1,h;}"
      : "=f"(r.x), "=f"(r.y) : "r"(pair));
  return r;
}

// Streaming 16-byte loads into registers that keep their values where `ok` is 0: no branch, no move. Weights are
// read once and in order.
DEVICE void load_if(uint4& v, const uint4* p, int ok) {
  asm volatile(
      "{.reg .pred p; setp.ne.b32 p,%5,0; @p ld.global.L1::no_allocate.v4.u32 {%0,%1,%2,%3},[%4];}"
      : "+r"(v.x), "+r"(v.y), "+r"(v.z), "+r"(v.w) : "l"(p), "r"(ok));
}
DEVICE void load_weights(uint4& v, const uint4* p, int ok) {
  asm volatile(
      "{.reg .pred p; setp.ne.b32 p,%5,0;"
      "@p ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0,%1,%2,%3},[%4];}"
      : "+r"(v.x), "+r"(v.y), "+r"(v.z), "+r"(v.w) : "l"(p), "r"(ok));
}
DEVICE void load_half_if(uint2& v, const void* p, int ok) {
  asm volatile("{.reg .pred p; setp.ne.b32 p,%3,0; @p ld.global.nc.v2.u32 {%0,%1},[%2];}"
               : "+r"(v.x), "+r"(v.y) : "l"(p), "r"(ok));
}
// What is read once need not push anything else out of L2.
DEVICE u64 evict_first() {
  u64 policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0,1.0;" : "=l"(policy));
  return policy;
}
// 16 bytes from global to shared memory; zeros where `ok` is 0.
DEVICE void copy_async(u32 target, const void* source, int ok) {
  asm volatile("cp.async.cg.shared.global [%0],[%1],16,%2;" :: "r"(target), "l"(source), "r"(ok ? 16 : 0));
}
// The same for weights, which are read once and in order.
DEVICE void stream_async(u32 target, const void* source, int ok, u64 policy) {
  asm volatile("cp.async.cg.shared.global.L2::cache_hint.L2::256B [%0],[%1],16,%2,%3;"
               :: "r"(target), "l"(source), "r"(ok ? 16 : 0), "l"(policy));
}
DEVICE void commit_copies() { asm volatile("cp.async.commit_group;"); }
// Until at most PENDING of the committed groups are still on their way; they land in order.
template <int PENDING> DEVICE void wait_copies() {
  asm volatile("cp.async.wait_group %0;" :: "n"(PENDING) : "memory");
}
DEVICE uint4 load_shared(u32 address) {
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3},[%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(address));
  return v;
}
DEVICE void store_shared(u32 address, const uint4& v) {
  asm volatile("st.shared.v4.u32 [%0],{%1,%2,%3,%4};" :: "r"(address), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}
DEVICE void prefetch_l2(const void* p) { asm volatile("prefetch.global.L2 [%0];" :: "l"(p)); }

DEVICE void ldmatrix4(u32* d, u32 address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3},[%4];"
               : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3]) : "r"(address));
}
// c[16 rows, 8 tokens] += a[16 rows, 16 k] b[16 k, 8 tokens]
DEVICE void mma(float* c, const u32* a, u32 b0, u32 b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

#if __CUDA_ARCH__ >= 900
// Programmatic dependent launch: wait until the kernel before is done, let the one after begin.
DEVICE void wait_for_predecessor() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
DEVICE void release_successor() { asm volatile("griddepcontrol.launch_dependents;"); }
DEVICE void cluster_sync() {
  asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
}
DEVICE u32 cluster_rank() { u32 r; asm("mov.u32 %0,%%cluster_ctarank;" : "=r"(r)); return r; }
// The float at a shared-memory address of another block of the cluster.
DEVICE float2 load_remote(u32 address, u32 rank) {
  float2 v;
  asm volatile("{.reg .b32 a; mapa.shared::cluster.u32 a,%2,%3; ld.shared::cluster.v2.f32 {%0,%1},[a];}"
               : "=f"(v.x), "=f"(v.y) : "r"(address), "r"(rank));
  return v;
}
#else
DEVICE void wait_for_predecessor() {}
DEVICE void release_successor() {}
DEVICE void cluster_sync() {}
DEVICE u32 cluster_rank() { return 0; }
DEVICE float2 load_remote(u32 address, u32 rank) { return make_float2(0.f, 0.f); }
#endif

// Where blocks that split K leave their sums for each other, and how they know that all are there.
struct Exchange {
  float* sums;    // [columns, splits, sums of a block]
  u32* counters;  // [columns, 2], zero before and after every launch: blocks that came, blocks that left
};
// Returns when all blocks of the column have come: they fit on the device together, so none waits in vain.
DEVICE void meet(u32* came, u32 splits) {
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    atomicAdd(came, 1);
    u32 seen;
    do asm volatile("ld.acquire.gpu.global.u32 %0,[%1];" : "=r"(seen) : "l"(came) : "memory");
    while (seen < splits);
  }
  __syncthreads();
}
// The last block to leave a column makes it ready for the next launch.
DEVICE void leave(u32* counters, u32 splits) {
  __syncthreads();
  if (threadIdx.x == 0 && atomicAdd(counters + 1, 1) == splits - 1) counters[0] = counters[1] = 0;
}
// Sums that other blocks wrote: past the first-level cache.
DEVICE float2 load_sums(const float* p) {
  float2 v;
  asm volatile("ld.global.cg.v2.f32 {%0,%1},[%2];" : "=f"(v.x), "=f"(v.y) : "l"(p) : "memory");
  return v;
}

// bitsandbytes' NF4 codebook, rounded to bf16.
__constant__ u16 CODEBOOK[16] = {0xbf80, 0xbf32, 0xbf06, 0xbeca, 0xbe92, 0xbe3d, 0xbdba, 0x0000,
                                 0x3da3, 0x3e25, 0x3e7c, 0x3ead, 0x3ee2, 0x3f10, 0x3f39, 0x3f80};

// A byte of two codes -> a pair of bf16, in shared memory, a copy for each bank: entry i, bank b stands at
// i * 256 + b * 4. The address of byte i of w is then one permutation, and no two lanes share a bank.
constexpr int TABLE_BYTES = 65536;
DEVICE void fill_table(char* table, int thread, int num_threads) {
#pragma unroll 4
  for (int i = thread; i < 2048; i += num_threads) {
    const int e = i >> 3;
    const u32 v = CODEBOOK[e & 15] | ((u32)CODEBOOK[e >> 4] << 16);
    *(uint4*)(table + (e << 8) + (i & 7) * 16) = make_uint4(v, v, v, v);
  }
}
// The lane's column of the table; the upper byte is the block's rank in its cluster. Dynamic shared memory must
// begin at TABLE_BASE: loads add it as a constant.
DEVICE u32 table_column(const char* shared, int lane) {
  const u32 address = smem_address(shared);
  if ((address & 0xffffff) != TABLE_BASE) __trap();
  return (address & 0xff000000) | lane * 4;
}
// Sixteen bytes of codes -> the addresses of their pairs, then the pairs: four A fragments (16 x 16 each).
DEVICE void pair_addresses(const uint4& w, u32 column, u32* a) {
  const u32 words[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
  for (int q = 0; q < 4; q++) {
    a[4 * q] = prmt(words[q], column, 0x7604u);
    a[4 * q + 1] = prmt(words[q], column, 0x7614u);
    a[4 * q + 2] = prmt(words[q], column, 0x7624u);
    a[4 * q + 3] = prmt(words[q], column, 0x7634u);
  }
}
DEVICE void load_pairs(u32* a) {
#pragma unroll
  for (int i = 0; i < 16; i++) asm("ld.shared.u32 %0,[%1+" TABLE_AT "];" : "=r"(a[i]) : "r"(a[i]));
}

// Where PAIRS is 1, tiles of gate and of up stand in turns: a block then has both factors of silu(gate) * up.
#ifndef PAIRS
#define PAIRS 0
#endif
// The linear's own number of a row of the tiles.
DEVICE int natural_row(int row, int N) {
  return PAIRS ? (row >> 4 & 1) * (N >> 1) + (row >> 5) * 16 + (row & 15) : row;
}

// What the adapters add to one linear: its parts (q, k, v or gate, up) begin at rows 0, second and third.
struct Update {
  const float* t;      // [tokens, parts, stride] x A^T, from the shrink kernel
  const int4* places;  // of this layer's first part for token 0: (a_at, b_at, rank) in units of 8 elements; or null
  const u16* weights;
  int token_stride;    // places from one token to the next
  int stride;          // floats from one part of t to the next
  int parts;
  int second, third;
};
DEVICE int column_of(const Update& u, int part) { return part == 0 ? 0 : part == 1 ? u.second : u.third; }
DEVICE int part_of(const Update& u, int row) {
  if (PAIRS) return row >> 4 & 1;
  return (u.parts > 1 && row >= u.second) + (u.parts > 2 && row >= u.third);
}
// The row of the part's B that row `row` of the tiles takes.
DEVICE int row_in(const Update& u, int part, int row) {
  return PAIRS ? (row >> 5) * 16 + (row & 15) : row - column_of(u, part);
}
// Where a token's B of one part stands (units of 8 elements), and its rank rounded up to 8; rank 0: nothing to add.
// Gathered once a block into shared memory as [parts][tokens].
DEVICE void gather_pairs(int2* pairs, const Update& u, int tokens, int thread, int num_threads) {
#pragma unroll 1
  for (int i = thread; i < u.parts * 64; i += num_threads) {
    const int token = i % 64, part = i / 64;
    if (token >= tokens) continue;
    const int4 place = __ldg(u.places + (size_t)token * u.token_stride + part);
    pairs[part * tokens + token] = make_int2(place.y, (place.z + 7) & ~7);
  }
}
// What sixteen ranks of eight tokens' adapters add to 16 rows: each token's B as a fragment of 16 rows and 16 ranks,
// and its t. Lane 4 g + t has ranks 4 t to 4 t + 3 of rows g and g + 8, and of token g.
struct Expansion {
  uint2 top[8], bottom[8];
  uint4 t;

  // For tokens from m on, rows from `row` on, ranks from j on.
  DEVICE void load(const Update& u, const int2* pairs, int tokens, int m, int row, int j, int lane) {
    const int part = part_of(u, row), local = row_in(u, part, row) + (lane >> 2), r = j + (lane & 3) * 4;
#pragma unroll
    for (int i = 0; i < 8; i++) {
      top[i] = bottom[i] = make_uint2(0, 0);
      const int2 pair = pairs[part * tokens + min(m + i, tokens - 1)];
      const u16* b = u.weights + (size_t)(u32)pair.x * 8 + (size_t)local * pair.y + r;
      const int ok = m + i < tokens && r < pair.y;
      load_half_if(top[i], b, ok);
      load_half_if(bottom[i], b + 8 * pair.y, ok);
    }
    const int token = min(m + (lane >> 2), tokens - 1);
    t = make_uint4(0, 0, 0, 0);
    const float* from = u.t + ((size_t)token * u.parts + part) * u.stride + r;
    load_if(t, (const uint4*)from, m + (lane >> 2) < tokens && r < pairs[part * tokens + token].y);
  }
  // c[16 rows, 8 tokens] += it, in units of 1 / scale: of the tokens' t only its own column is not zero.
  DEVICE void add(float* c, float scale, int lane) const {
    const u32 b0 = pack_bf16(__uint_as_float(t.x) * scale, __uint_as_float(t.y) * scale);
    const u32 b1 = pack_bf16(__uint_as_float(t.z) * scale, __uint_as_float(t.w) * scale);
    const int own = lane >> 2;
#pragma unroll
    for (int i = 0; i < 8; i++) {
      const u32 a[4] = {top[i].x, bottom[i].x, top[i].y, bottom[i].y};
      mma(c, a, own == i ? b0 : 0, own == i ? b1 : 0);
    }
  }
};
// The highest rank among eight tokens from m on.
DEVICE int highest_rank(const Update& u, const int2* pairs, int tokens, int m, int row, int lane) {
  int highest = pairs[part_of(u, row) * tokens + min(m + (lane >> 2), tokens - 1)].y;
#pragma unroll
  for (int o = 4; o < 32; o <<= 1) highest = max(highest, __shfl_xor_sync(~0u, highest, o));
  return highest;
}
// Adds what `e` holds, and what lies beyond its sixteen ranks.
DEVICE void expand_tile(float* c, Expansion& e, const Update& u, const int2* pairs, int tokens, int m, int row,
                        float scale, int lane) {
  e.add(c, scale, lane);
  const int highest = highest_rank(u, pairs, tokens, m, row, lane);
  for (int j = 16; j < highest; j += 16) {
    e.load(u, pairs, tokens, m, row, j, lane);
    e.add(c, scale, lane);
  }
}
// Brings rows [first, first + rows) of one token's B of one part to L2, while the weights stream; by eight threads.
DEVICE void prefetch_rows(const Update& u, const int2* pairs, int tokens, int token, int part, int first, int rows,
                          int thread) {
  int begin = first >> 1, end = (first + rows) >> 1;
  if (!PAIRS) {
    begin = max(first - column_of(u, part), 0), end = first + rows - column_of(u, part);
    if (part + 1 < u.parts) end = min(end, column_of(u, part + 1) - column_of(u, part));
  }
  const int2 pair = pairs[part * tokens + token];
  const int row = pair.y * 2;
  if (row == 0) return;
  const char* b = (const char*)((const uint4*)u.weights + (u32)pair.x) + (size_t)row * begin;
  for (int o = (thread & 7) * 128; o < row * (end - begin); o += 8 * 128) prefetch_l2(b + o);
}
struct Weights {
  const uint4* codes;   // [N / 16][K / 64][32 lanes]
  const uint4* scales;  // [N / 16][K / 256, rounded up][8 lanes]: rows g and g + 8 (fp16 pairs) of four groups
  const u16* bias;      // [N] or null
  float gain;           // power of two on all scales
};

// Rows n and n + 1 of one token, with scale and bias, as rounded as the linear's output.
DEVICE float2 finished(float2 v, const Weights& w, int n) {
  v.x *= w.gain, v.y *= w.gain;
  if (w.bias) {
    const u32 pair = *(const u32*)(w.bias + n);
    v.x += bf16_low(pair), v.y += bf16_high(pair);
  }
  const u32 rounded = pack_bf16(v.x, v.y);
  return make_float2(bf16_low(rounded), bf16_high(rounded));
}
DEVICE float silu(float x) { return x / (1.f + __expf(-x)); }
// Stores rows `row` and `row` + 1 of the tiles for token m; gated: of gate only, times what up has 16 rows further.
template <class Sums>
DEVICE void finish_rows(u16* y, const Sums& sums_of, const Weights& w, int m, int row, int N, int gated) {
  const int n = natural_row(row, N);
  if (!PAIRS || !gated) {
    const float2 v = finished(sums_of(row), w, n);
    *(u32*)(y + (size_t)m * N + n) = pack_bf16(v.x, v.y);
  } else if (!(row & 16)) {
    const float2 gate = finished(sums_of(row), w, n), up = finished(sums_of(row + 16), w, n + (N >> 1));
    *(u32*)(y + (size_t)m * (N >> 1) + n) = pack_bf16(silu(gate.x) * up.x, silu(gate.y) * up.y);
  }
}

// A warp's share of the weights on its way to the multiplication: a ring of DEPTH units of 16 rows x 64 columns.
// A lane's 16 bytes come back to the same lane. Registers would not do: a wait for one load there is a wait for
// younger ones that share its scoreboard.
template <int DEPTH> struct Ring {
  static constexpr int UNIT = 512, SCALES = 128, BYTES = DEPTH * UNIT + DEPTH / 4 * SCALES;
  u32 codes, scales;
  u64 policy;
  DEVICE Ring(char* base, int lane) {
    codes = smem_address(base) + lane * 16;
    scales = smem_address(base) + DEPTH * UNIT + (lane >> 2) * 16;
    policy = evict_first();
  }
  // Sends for the unit that will stand in `slot`, zeros if there is none; with the first of four, for their scales.
  DEVICE void fetch(int slot, const uint4* unit, const uint4* four_scales, int ok, int lane) {
    stream_async(codes + slot * UNIT, unit, ok, policy);
    if (slot % 4 == 0 && (lane & 3) == 0) stream_async(scales + slot / 4 * SCALES, four_scales, ok, policy);
    commit_copies();
  }
  DEVICE uint4 take(int slot) { return load_shared(codes + slot * UNIT); }
  DEVICE uint4 take_scales(int slot) { return load_shared(scales + slot / 4 * SCALES); }
};
DEVICE u32 word(const uint4& v, int i) { return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w; }
