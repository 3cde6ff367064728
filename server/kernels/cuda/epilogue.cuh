// What ends a linear: sums of blocks that share rows, the adapters' updates, scale, bias and rounding.
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
// Gathered once a block into shared memory as [parts][TOKENS].
DEVICE void gather_pairs(int2* pairs, const Update& u, int tokens, int thread, int num_threads) {
#pragma unroll 1
  for (int i = thread; i < u.parts * TOKENS; i += num_threads) {
    const int token = i % TOKENS, part = i / TOKENS;
    int4 place = make_int4(0, 0, 0, 0);
    if (token < tokens) place = __ldg(u.places + (size_t)token * u.token_stride + part);
    pairs[i] = make_int2(place.y, (place.z + 7) & ~7);
  }
}
// Eight tokens from m on and sixteen rows of the tiles from `row` on, whose sums stand in [8][pitch] floats.
struct Spot {
  float* sums;
  int m, row;
};
// What sixteen ranks of eight tokens' adapters add to 16 rows: each token's B as a fragment of 16 rows and 16 ranks,
// and its t. Lane 4 g + t has ranks 4 t to 4 t + 3 of rows g and g + 8, and of token g.
struct Expansion {
  uint2 top[8], bottom[8];
  uint4 t;

  // Ranks from j on.
  DEVICE void load(const Update& u, const int2* pairs, const Spot& at, int j, int lane) {
    const int part = part_of(u, at.row), r = j + (lane & 3) * 4;
    const u32 local = row_in(u, part, at.row) + (lane >> 2);
    const int2* own = pairs + part * TOKENS + at.m;
    const char* weights = (const char*)(u.weights + r);
#pragma unroll
    for (int i = 0; i < 8; i++) {
      top[i] = bottom[i] = make_uint2(0, 0);
      const int2 pair = own[i];
      const char* b = weights + (size_t)(u32)pair.x * 16 + (size_t)(local * 2) * (u32)pair.y;
      load_half_if(top[i], b, r < pair.y);
      load_half_if(bottom[i], b + (size_t)(u32)pair.y * 16, r < pair.y);
    }
    t = make_uint4(0, 0, 0, 0);
    const int token = lane >> 2;
    load_if(t, (const uint4*)(u.t + ((size_t)(at.m + token) * u.parts + part) * u.stride + r), r < own[token].y);
  }
  // c[16 rows, 8 tokens] += it: of the tokens' t only its own column is not zero.
  DEVICE void add(float* c, int lane) const {
    const u32 b0 = pack_bf16(__uint_as_float(t.x), __uint_as_float(t.y));
    const u32 b1 = pack_bf16(__uint_as_float(t.z), __uint_as_float(t.w));
    const int own = lane >> 2;
    float d[4] = {0.f, 0.f, 0.f, 0.f};
#pragma unroll
    for (int i = 0; i < 8; i++) {
      const u32 a[4] = {top[i].x, bottom[i].x, top[i].y, bottom[i].y};
      mma(i & 1 ? d : c, a, own == i ? b0 : 0, own == i ? b1 : 0);
    }
#pragma unroll
    for (int i = 0; i < 4; i++) c[i] += d[i];
  }
};
// The highest rank among a spot's tokens.
DEVICE int highest_rank(const Update& u, const int2* pairs, const Spot& at, int lane) {
  int highest = pairs[part_of(u, at.row) * TOKENS + at.m + (lane >> 2)].y;
#pragma unroll
  for (int o = 4; o < 32; o <<= 1) highest = max(highest, __shfl_xor_sync(~0u, highest, o));
  return highest;
}
// What `e` holds and what lies beyond its sixteen ranks, added to a spot's sums, which are in units of their rows' scales.
DEVICE void expand(const Spot& at, int pitch, Expansion& e, const Update& u, const Weights& w, const int2* pairs, int N,
                   int lane) {
  const int g = lane >> 2;
  float c[4] = {0.f, 0.f, 0.f, 0.f};
  e.add(c, lane);
  const int highest = highest_rank(u, pairs, at, lane);
#pragma unroll 1
  for (int j = 16; j < highest; j += 16) {
    e.load(u, pairs, at, j, lane);
    e.add(c, lane);
  }
  const float top = row_unit(w, natural_row(at.row + g, N)), bottom = row_unit(w, natural_row(at.row + g + 8, N));
  float* out = at.sums + (lane & 3) * 2 * pitch + g;
  out[0] += c[0] * top, out[pitch] += c[1] * top;
  out[8] += c[2] * bottom, out[pitch + 8] += c[3] * bottom;
}
// Expands the spots first, first + step, ... below end: while one is added, the next comes.
template <class Spots>
DEVICE void expand_all(const Spots& spot, int first, int step, int end, int pitch, const Update& u, const Weights& w,
                       const int2* pairs, int N, int lane) {
  // Two by name: a copy from one to the other would wait for what comes.
  Expansion even, odd;
  if (first < end) even.load(u, pairs, spot(first), 0, lane);
#pragma unroll 1
  for (int i = first; i < end; i += 2 * step) {
    const int second = i + step, third = second + step;
    if (second < end) odd.load(u, pairs, spot(second), 0, lane);
    expand(spot(i), pitch, even, u, w, pairs, N, lane);
    if (third < end) even.load(u, pairs, spot(third), 0, lane);
    if (second < end) expand(spot(second), pitch, odd, u, w, pairs, N, lane);
  }
}
// Brings rows [first, first + rows) of one token's B of one part to L2, while the weights stream; by eight threads.
DEVICE void prefetch_rows(const Update& u, const int2* pairs, int token, int part, int first, int rows, int thread) {
  int begin = first >> 1, end = (first + rows) >> 1;
  if (!PAIRS) {
    begin = max(first - column_of(u, part), 0), end = first + rows - column_of(u, part);
    if (part + 1 < u.parts) end = min(end, column_of(u, part + 1) - column_of(u, part));
  }
  const int2 pair = pairs[part * TOKENS + token];
  const char* b = (const char*)((const uint4*)u.weights + (u32)pair.x);
  if (begin < end) prefetch_l2(b + (size_t)(begin * 2) * pair.y, pair.y * 2 * (end - begin), thread & 7, 8);
}
// Rows n and n + 1 of one token, with scale and bias, as rounded as the linear's output.
DEVICE float2 finished(float2 v, const Weights& w, int n) {
  v.x *= row_scale(w, n), v.y *= row_scale(w, n + 1);
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
