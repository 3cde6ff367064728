// y[tokens, N] = x[tokens, K] W^T for up to 256 tokens by wgmma (sm_90a).
//
// A warpgroup owns 64 rows: its lanes make their codes A fragments, while x streams through shared memory as B,
// shared by all warpgroups of the block. Two sets of A fragments: one is made while the tensor cores read the
// other. SPLITS blocks share K. Adapters' updates are of up to 64 tokens.
//
// Compiled with: TOKENS (multiple of 8), GROUPS (warpgroups), SLOTS (units on their way, a warp: 4 or 8), STAGES of x,
// BLOCKS of 64 columns in a stage (1, 2 or 4), SPLITS, TURNS, PAIRS, TABLE_AT, TABLE_BASE; `wgmma(acc, a, descriptor)` for
// that many tokens is put in front of this file.
constexpr int THREADS = GROUPS * 128, ROWS = GROUPS * 64;
constexpr int BLOCK_BYTES = TOKENS * 128, STAGE_BYTES = BLOCKS * BLOCK_BYTES;
constexpr int PITCH = ROWS + 4;
// Of a warp's units on their way, those that need not have landed: x of a unit is sent for AHEAD stages before.
constexpr int AHEAD = STAGES - 2, PENDING = (SLOTS < BLOCKS * AHEAD ? SLOTS : BLOCKS * AHEAD) - 1;
constexpr int BARRIER_BYTES = 16;
constexpr bool TAKES_UPDATE = TOKENS <= 64;

// A warp's share of the weights on its way to the multiplication: a ring of DEPTH units of 16 rows x 64 columns.
// A lane's share comes back to the same lane. Registers would not do: a wait for one load there is a wait for
// younger ones that share its scoreboard.
template <int DEPTH> struct Ring {
  static constexpr int UNIT = SHARE * 512, SCALES = HAS_GROUP_SCALES ? 128 : 0, BYTES = DEPTH * UNIT + DEPTH / 4 * SCALES;
  u32 codes, scales;
  u64 policy;
  DEVICE Ring(char* base, int lane) {
    codes = smem_address(base) + lane * 16;
    scales = smem_address(base) + DEPTH * UNIT + (lane >> 2) * 16;
    policy = evict_first();
  }
  // Sends for the unit that will stand in `slot`, zeros if there is none; with the first of four, for their scales.
  DEVICE void fetch(int slot, const uint4* unit, const uint4* four_scales, int ok, int lane) {
#pragma unroll
    for (int i = 0; i < SHARE; i++) stream_async(codes + slot * UNIT + i * 512, unit + i * 32, ok, policy);
    if (HAS_GROUP_SCALES && slot % 4 == 0 && (lane & 3) == 0) stream_async(scales + slot / 4 * SCALES, four_scales, ok, policy);
    commit_copies();
  }
  DEVICE Share take(int slot) {
    Share share;
#pragma unroll
    for (int i = 0; i < SHARE; i++) share.v[i] = load_shared(codes + slot * UNIT + i * 512);
    return share;
  }
  DEVICE uint4 take_scales(int slot) { return load_shared(scales + slot / 4 * SCALES); }
};

// A barrier that warps pass in two steps. What a warp does between them is done while others are before or behind: some
// make fragments while the tensor cores are busy with those of others.
struct Turn {
  u32 at, parity;
  DEVICE Turn(char* barrier, int thread) : at(smem_address(barrier)), parity(0) {
    if (TURNS && thread == 0) asm volatile("mbarrier.init.shared.b64 [%0],%1;" :: "r"(at), "n"(THREADS / 32) : "memory");
  }
  DEVICE void arrive(int lane) const {
    __syncwarp();
    if (lane == 0) asm volatile("{.reg .b64 s; mbarrier.arrive.shared.b64 s,[%0];}" :: "r"(at) : "memory");
  }
  DEVICE void wait() {
    u32 done;
    do
      asm volatile("{.reg .pred p; mbarrier.try_wait.parity.shared.b64 p,[%1],%2; selp.u32 %0,1,0,p;}"
                   : "=r"(done) : "r"(at), "r"(parity) : "memory");
    while (!done);
    __syncwarp();
    parity ^= 1;
  }
};

DEVICE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int PENDING> DEVICE void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" :: "n"(PENDING) : "memory");
}
DEVICE u32 multiply_pairs(u32 a, u32 b) {
  u32 r;
  asm("mul.rn.bf16x2 %0,%1,%2;" : "=r"(r) : "r"(a), "r"(b));
  return r;
}
// K-major, 128-byte swizzle, 8 rows of 128 bytes to a pattern.
DEVICE u64 x_descriptor(u32 address) {
  return (u64)((address & 0x3FFFF) >> 4) | (1ull << 16) | (64ull << 32) | (1ull << 62);
}

// Columns [group * 64, + BLOCKS * 64) of x -> one stage; what lies outside is zeros.
DEVICE void load_stage(u32 stage, const u16* x, int tokens, int group, int end, int K, int thread) {
  // A thread keeps its 16 bytes' place in the row and walks down the tokens.
  constexpr int CHUNKS = BLOCKS * 8, STEP = THREADS / CHUNKS;
  const int j = thread % CHUNKS, block = j >> 3, inside = group + block < end;
  const u16* source = x + (size_t)group * 64 + j * 8;
  const u32 target = stage + block * BLOCK_BYTES;
#pragma unroll
  for (int i = 0; i < (TOKENS + STEP - 1) / STEP; i++) {
    const int m = thread / CHUNKS + i * STEP, ok = inside && m < tokens;
    if (TOKENS % STEP == 0 || m < TOKENS)
      copy_async(target + m * 128 + (((j & 7) ^ (m & 7)) << 4), ok ? source + (u32)(m * K) : x, ok);
  }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
linear_wgmma(Weights w, const u16* x, u16* y, Update update, Exchange exchange, int tokens, int N, int K,
             int x_is_ready, int gated) {
  extern __shared__ __align__(1024) char shared[];
  const int thread = threadIdx.x, lane = thread & 31, warp = thread >> 5, g = lane >> 2, t = lane & 3;
  const Format format(shared, lane);
  char* stages = shared + TABLE_BYTES;
  char* rings = stages + STAGES * STAGE_BYTES;
  Turn turn(rings + GROUPS * 4 * Ring<SLOTS>::BYTES, thread);
  int2* pairs = (int2*)(rings + GROUPS * 4 * Ring<SLOTS>::BYTES + BARRIER_BYTES);
  Ring<SLOTS> ring(rings + warp * Ring<SLOTS>::BYTES, lane);
  const u32 stages_at = smem_address(stages);
  // Blocks split K in whole quads, so that four groups share one load of scales.
  const int groups = K >> 6, quads = (groups + 3) >> 2, rank = blockIdx.x;
  const int begin = quads * rank / SPLITS * 4, end = min(groups, quads * (rank + 1) / SPLITS * 4);
  const int tile = blockIdx.y * (ROWS / 16) + warp, in_range = tile * 16 < N, count = end - begin;
  // Units that are not there are zeros: the loop has no way out, so products may overlap.
  const int rounded = (count + SLOTS - 1) / SLOTS * SLOTS;
  const uint4* codes = w.codes + ((size_t)tile * groups + begin) * SHARE * 32 + lane;
  const uint4* scales = w.scales + ((size_t)tile * quads + (begin >> 2)) * 8 + g;
#pragma unroll
  for (int i = 0; i < SLOTS; i++) ring.fetch(i, codes + i * SHARE * 32, scales + (i >> 2) * 8, in_range && i < count, lane);
  format.prepare(shared, thread, THREADS);
  if (!x_is_ready) wait_for_predecessor();
  release_successor();
#pragma unroll
  for (int c = 0; c < AHEAD; c++)
    if (c * BLOCKS < rounded) load_stage(stages_at + c * STAGE_BYTES, x, tokens, begin + c * BLOCKS, end, K, thread);
  commit_copies();
  if (TAKES_UPDATE && update.places) gather_pairs(pairs, update, tokens, thread, THREADS);

  float acc[TOKENS / 2];
#pragma unroll
  for (int i = 0; i < TOKENS / 2; i++) acc[i] = 0.f;
  u32 a[2][16];
  uint4 four;  // groups' scales
  wait_copies<0>();
  if (TURNS) __syncthreads();
  for (int base = 0; base < rounded; base += SLOTS) {
#pragma unroll
    for (int j = 0; j < SLOTS; j++) {
      u32* fragments = a[j & 1];
      auto fetch = [&] {
        const int ahead = base + j + SLOTS;
        ring.fetch(j, codes + (u32)ahead * SHARE * 32, scales + (u32)(ahead >> 2) * 8, in_range && ahead < count, lane);
      };
      auto make = [&] {
        if (HAS_GROUP_SCALES && j % 4 == 0) four = ring.take_scales(j);
        format.take(ring.take(j), fragments);
        if (!TURNS) fetch();
        format.finish(fragments);
        if constexpr (HAS_GROUP_SCALES) {
          const float2 s = unpack_f16(word(four, j % 4));
          const u32 top = pack_bf16(s.x, s.x), bottom = pack_bf16(s.y, s.y);
#pragma unroll
          for (int i = 0; i < 16; i++) fragments[i] = multiply_pairs(fragments[i], i & 1 ? bottom : top);
        }
      };
      // Copies land in order.
      wait_copies<PENDING>();
      if (j % BLOCKS == 0) {
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        if (TURNS) turn.arrive(lane);
        else __syncthreads();
      }
      if (TURNS) make();
      if (j % BLOCKS == 0) {
        if (TURNS) turn.wait();
        // Two stages ahead: the one that the last product may still be reading stays.
        const int chunk = (base + j) / BLOCKS, next = base + j + AHEAD * BLOCKS;
        if (next < rounded)
          load_stage(stages_at + (chunk + AHEAD) % STAGES * STAGE_BYTES, x, tokens, begin + next, end, K, thread);
        // Those tokens' rows that this block will add.
        if (TAKES_UPDATE && update.places) {
          const int chunks = (rounded + BLOCKS - 1) / BLOCKS, own = (TOKENS / 8 - 1 - rank + SPLITS) / SPLITS * 8;
          const int from = own * chunk / chunks, count = own * (chunk + 1) / chunks - from;
          for (int i = thread >> 3; i < count * update.parts; i += THREADS >> 3) {
            const int nth = own - 1 - from - i % count, token = ((TOKENS / 8 - 1 - rank - nth / 8 * SPLITS) * 8) + nth % 8;
            if (token < tokens) prefetch_rows(update, pairs, token, i / count, blockIdx.y * ROWS, ROWS, thread);
          }
        }
      }
      if (TURNS) fetch();
      else make();
      const u64 descriptor = x_descriptor(stages_at + (base + j) / BLOCKS % STAGES * STAGE_BYTES);
      wgmma_fence();
#pragma unroll
      for (int q = 0; q < 4; q++) wgmma(acc, fragments + 4 * q, descriptor + j % BLOCKS * (BLOCK_BYTES >> 4) + q * 2);
      wgmma_commit();
      wgmma_wait<1>();
    }
  }
  wgmma_wait<0>();
  wait_copies<0>();
  __syncthreads();

  float* sums = (float*)stages;
#pragma unroll
  for (int n = 0; n < TOKENS / 8; n++) {
    float* out = sums + (n * 8 + 2 * t) * PITCH + warp * 16 + g;
    out[0] = acc[4 * n], out[PITCH] = acc[4 * n + 1], out[8] = acc[4 * n + 2], out[PITCH + 8] = acc[4 * n + 3];
  }
  if (x_is_ready) wait_for_predecessor();
  if (TAKES_UPDATE && update.places && in_range) {
    // Blocks that share rows add the updates of every SPLITS-th eight tokens.
    // The last first: of more rows than L2 holds, those that were sent for last are still there.
    auto spot = [&](int i) {
      const int m = TOKENS - 8 - i * 8;
      return Spot{sums + m * PITCH + warp * 16, m, tile * 16};
    };
    expand_all(spot, rank, SPLITS, TOKENS / 8, PITCH, update, w, pairs, N, lane);
  }
  __syncthreads();

  constexpr int FLOATS = TOKENS * ROWS;
  float* column_sums = exchange.sums + (size_t)blockIdx.y * SPLITS * FLOATS;
  u32* counters = exchange.counters + blockIdx.y * 2;
  if (SPLITS > 1) {
    for (int o = thread; o < tokens * (ROWS / 2); o += THREADS)
      *(float2*)(column_sums + rank * FLOATS + o * 2) = *(float2*)(sums + o / (ROWS / 2) * PITCH + o % (ROWS / 2) * 2);
    meet(counters, SPLITS);
  }
  for (int o = thread + rank * THREADS; o < tokens * (ROWS / 2); o += SPLITS * THREADS) {
    const int m = o / (ROWS / 2), first = blockIdx.y * ROWS, row = first + o % (ROWS / 2) * 2;
    if (row >= N) continue;
    auto sums_of = [&](int row) {
      if (SPLITS == 1) return *(float2*)(sums + m * PITCH + row - first);
      float2 v = make_float2(0.f, 0.f);
#pragma unroll
      for (int k = 0; k < SPLITS; k++) {
        const float2 part = load_sums(column_sums + k * FLOATS + m * ROWS + row - first);
        v.x += part.x, v.y += part.y;
      }
      return v;
    };
    finish_rows(y, sums_of, w, m, row, N, gated);
  }
  if (SPLITS > 1) leave(counters, SPLITS);
}
