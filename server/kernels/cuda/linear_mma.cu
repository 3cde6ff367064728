// y[tokens, N] = x[tokens, K] W^T for up to 16 tokens by mma.sync (sm_80 and newer).
//
// One block an SM, which owns a run of 16-row tiles. Its warps split K: a warp's share of x stays in registers
// for all tiles, so the main loop is nothing but weights: load 16 bytes or 32, make them bf16, multiply. The warps' partial
// sums meet in shared memory. Where x does not fit the registers, K is cut into slices; SPLITS blocks share the
// rows and take a slice each in turn.
//
// Compiled with: TOKENS 8 or 16, WARPS, SLOTS (units on their way, a warp: 4 or 8), SPLITS, PAIRS, TABLE_AT,
// TABLE_BASE.
constexpr int UNITS = 4, TILES = 2;  // groups of 64 columns a warp owns; tiles summed at once
constexpr int THREADS = WARPS * 32, COLUMNS = TOKENS / 8, TILE_FLOATS = TOKENS * 20, SPAN = UNITS * 64;
constexpr int SUMS = 2 * WARPS * TILES * TILE_FLOATS * 4, STAGE = WARPS * TOKENS * SPAN * 2;

// Eight tokens of the warp's x [TOKENS, 256] from k0 on, 16 bytes a lane.
DEVICE void request_x(uint4* rows, const u16* x, int m0, int tokens, int k0, int K, int lane) {
#pragma unroll
  for (int m = 0; m < 8; m++) {
    rows[m] = make_uint4(0, 0, 0, 0);
    load_if(rows[m], (const uint4*)(x + (size_t)(m0 + m) * K + k0) + lane, m0 + m < tokens && k0 + lane * 8 < K);
  }
}
// Through shared memory to B fragments in registers.
DEVICE void keep_x(u32* b, const uint4* rows, u32 stage, int n, int lane) {
#pragma unroll
  for (int m = 0; m < 8; m++) store_shared(stage + (m * 32 + (lane ^ m)) * 16, rows[m]);
  __syncwarp();
#pragma unroll
  for (int u = 0; u < UNITS; u++)
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const int m = lane & 7, c = u * 8 + h * 4 + (lane >> 3);
      ldmatrix4(b + ((u * COLUMNS + n) * 2 + h) * 4, stage + (m * 32 + (c ^ m)) * 16);
    }
}

// sum[16 rows, 8 tokens] += a unit's fragments times x, with the group's scales of rows g and g + 8 if there are any.
DEVICE void multiply(float* sum, const u32* a, const u32* x, float2 s) {
  if constexpr (!HAS_GROUP_SCALES) {
#pragma unroll
    for (int q = 0; q < 4; q++) mma(sum, a + 4 * q, x[2 * q], x[2 * q + 1]);
  } else {
    float c[4] = {0.f, 0.f, 0.f, 0.f}, d[4] = {0.f, 0.f, 0.f, 0.f};
    mma(c, a, x[0], x[1]);
    mma(d, a + 4, x[2], x[3]);
    mma(c, a + 8, x[4], x[5]);
    mma(d, a + 12, x[6], x[7]);
    sum[0] += s.x * (c[0] + d[0]), sum[1] += s.x * (c[1] + d[1]);
    sum[2] += s.y * (c[2] + d[2]), sum[3] += s.y * (c[3] + d[3]);
  }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
linear_mma(Weights w, const u16* x, u16* y, Update update, Exchange exchange, int tokens, int N, int K, int x_is_ready,
           int gated) {
  extern __shared__ __align__(1024) char shared[];
  const int thread = threadIdx.x, lane = thread & 31, warp = thread >> 5, g = lane >> 2, t = lane & 3;
  const Format format(shared, lane);
  char* stage = shared + TABLE_BYTES;
  float* partials = (float*)stage;
  int2* pairs = (int2*)(stage + (SUMS > STAGE ? SUMS : STAGE));
  float* sums = (float*)(pairs + 3 * TOKENS);

  const int groups = K >> 6, quads = (groups + 3) >> 2;
  const u32 num_tiles = N >> 4;
  const u32 turns = num_tiles >> PAIRS;  // a block has both tiles of a pair
  const int first = (turns * blockIdx.y / gridDim.y) << PAIRS;
  const int tiles = ((turns * (blockIdx.y + 1) / gridDim.y) << PAIRS) - first;
  const int slices = (groups + SPLITS * WARPS * UNITS - 1) / (SPLITS * WARPS * UNITS);
  const bool at_once = SPLITS == 1 && slices == 1 && !update.places;
  for (int slice = 0; slice < slices; slice++) {
    const int u0 = ((slice * SPLITS + blockIdx.x) * WARPS + warp) * UNITS;
    const uint4* codes = w.codes + ((size_t)first * groups + u0) * SHARE * 32 + lane;
    const uint4* scales = w.scales + ((size_t)first * quads + (u0 >> 2)) * 8 + g;
    Share ring[SLOTS];
    uint4 scale[SLOTS / UNITS];
    // Zeros stay where there is no unit.
    auto fetch = [&](int slot, int tile, int u) {
#pragma unroll
      for (int k = 0; k < SHARE; k++)
        load_weights(ring[slot].v[k], codes + (u32)(((tile * groups + u) * SHARE + k) * 32), tile < tiles && u0 + u < groups);
      if (HAS_GROUP_SCALES && u == UNITS - 1)
        load_weights(scale[slot / UNITS], scales + (u32)(tile * quads * 8), tile < tiles && u0 < groups);
    };
#pragma unroll
    for (int i = 0; i < SLOTS; i++)
#pragma unroll
      for (int k = 0; k < SHARE; k++) ring[i].v[k] = make_uint4(0, 0, 0, 0);
#pragma unroll
    for (int i = 0; i < SLOTS / UNITS; i++) scale[i] = make_uint4(0, 0, 0, 0);
#pragma unroll
    for (int i = 0; i < UNITS; i++) fetch(i, 0, i);
    if (slice == 0) {
      format.prepare(shared, thread, THREADS);
      if (update.places) gather_pairs(pairs, update, tokens, thread, THREADS);
      if (!x_is_ready) wait_for_predecessor();
      release_successor();
    }
    u32 b[UNITS * COLUMNS * 8];
    const u32 mine = smem_address(stage) + warp * TOKENS * SPAN * 2;
    uint4 rows[8];
    request_x(rows, x, 0, tokens, u0 * 64, K, lane);
    // The rest of the ring comes after x, which would wait behind it in the memory's queues.
#pragma unroll
    for (int i = UNITS; i < SLOTS; i++) fetch(i, i / UNITS, i % UNITS);
    keep_x(b, rows, mine, 0, lane);
    if (COLUMNS == 2) {
      request_x(rows, x, 8, tokens, u0 * 64, K, lane);
      keep_x(b, rows, mine + 8 * SPAN * 2, COLUMNS - 1, lane);
    }
    __syncthreads();
    if (slice == 0 && update.places)
      for (int i = thread >> 3; i < tokens * update.parts; i += THREADS >> 3)
        prefetch_rows(update, pairs, i % tokens, i / tokens, first * 16, tiles * 16, thread);

    int parity = 0;
    for (int base = 0; base < tiles; base += TILES) {
      float acc[TILES * COLUMNS * 4];
#pragma unroll
      for (int i = 0; i < TILES * COLUMNS * 4; i++) acc[i] = 0.f;
#pragma unroll
      for (int i = 0; i < TILES * UNITS; i++) {
        const int r = i / UNITS, u = i % UNITS, slot = i % SLOTS;
        u32 a[16];
        format.take(ring[slot], a);
        float2 s = make_float2(1.f, 1.f);
        if constexpr (HAS_GROUP_SCALES) s = unpack_f16(prmt(word(scale[slot / UNITS], u), 0, 0x3210u));
        fetch(slot, base + (i + SLOTS) / UNITS, u);
        format.finish(a);
#pragma unroll
        for (int n = 0; n < COLUMNS; n++)
          multiply(acc + (r * COLUMNS + n) * 4, a, b + (u * COLUMNS + n) * 8, s);
      }
      // Rows of 20 floats: neither the writes of a warp nor the reads below meet in a bank.
      float* round = partials + parity * (WARPS * TILES * TILE_FLOATS);
      parity ^= 1;
#pragma unroll
      for (int r = 0; r < TILES; r++)
#pragma unroll
        for (int n = 0; n < COLUMNS; n++) {
          float* out = round + (warp * TILES + r) * TILE_FLOATS + (n * 8 + 2 * t) * 20 + g;
          const float* sum = acc + (r * COLUMNS + n) * 4;
          out[0] = sum[0], out[20] = sum[1], out[8] = sum[2], out[28] = sum[3];
        }
      __syncthreads();
      for (int o = thread; o < TILES * TOKENS * 8; o += THREADS) {
        const int r = o / (TOKENS * 8), m = (o >> 3) % TOKENS, n = (o & 7) * 2, tile = base + r;
        if (m >= tokens || tile >= tiles) continue;
        auto sums_of = [&](int row) {
          float2* held = (float2*)(sums + (((row >> 4) - first) * TOKENS + m) * 16 + (row & 15));
          float2 v = slice ? *held : make_float2(0.f, 0.f);
#pragma unroll
          for (int k = 0; k < WARPS; k++) {
            const float2 part =
                *(float2*)(round + (k * TILES + (row >> 4) - first - base) * TILE_FLOATS + m * 20 + (row & 15));
            v.x += part.x, v.y += part.y;
          }
          return v;
        };
        const int row = (first + tile) * 16 + n;
        if (at_once) finish_rows(y, sums_of, w, m, row, N, gated);
        else *(float2*)(sums + (tile * TOKENS + m) * 16 + n) = sums_of(row);
      }
    }
    // The stage of the next slice's x overlaps the partial sums.
    __syncthreads();
  }
  if (at_once) return;
  if (x_is_ready) wait_for_predecessor();
  if (update.places) {
    // Blocks that share rows add the updates of every SPLITS-th tile.
    auto spot = [&](int i) {
      const int tile = i / COLUMNS, m = i % COLUMNS * 8;
      return Spot{sums + (tile * TOKENS + m) * 16, m, (first + tile) * 16};
    };
    expand_all(spot, warp * SPLITS + blockIdx.x, WARPS * SPLITS, tiles * COLUMNS, 16, update, w, pairs, N, lane);
    __syncthreads();
  }

  const int floats = (((turns + gridDim.y - 1) / gridDim.y) << PAIRS) * TOKENS * 16;
  float* column_sums = exchange.sums + (size_t)blockIdx.y * SPLITS * floats;
  u32* counters = exchange.counters + blockIdx.y * 2;
  if (SPLITS > 1) {
    for (int o = thread; o < tiles * TOKENS * 8; o += THREADS)
      *(float2*)(column_sums + blockIdx.x * floats + o * 2) = *(float2*)(sums + o * 2);
    meet(counters, SPLITS);
  }
  for (int o = thread + blockIdx.x * THREADS; o < tiles * TOKENS * 8; o += THREADS * SPLITS) {
    const int tile = o / (TOKENS * 8), m = (o >> 3) % TOKENS;
    if (m >= tokens) continue;
    auto sums_of = [&](int row) {
      const int at = (((row >> 4) - first) * TOKENS + m) * 16 + (row & 15);
      if (SPLITS == 1) return *(float2*)(sums + at);
      float2 v = make_float2(0.f, 0.f);
#pragma unroll
      for (int k = 0; k < SPLITS; k++) {
        const float2 part = load_sums(column_sums + k * floats + at);
        v.x += part.x, v.y += part.y;
      }
      return v;
    };
    finish_rows(y, sums_of, w, m, (first + tile) * 16 + (o & 7) * 2, N, gated);
  }
  if (SPLITS > 1) leave(counters, SPLITS);
}
