// Attention of tokens over the paged KV cache: norm, rotation and storing of new keys and values beside it.
//
// Compiled with: HEADS, KV_HEADS (at most 8 heads each), DIM (power of two, 32 to 256), BLOCK (cells of a block), NORM (of q and k first),
// SPLITS (blocks of a cluster that share a context).
constexpr int GROUP = HEADS / KV_HEADS, WARPS = 3, THREADS = WARPS * 32;
constexpr int TILE = 16, STEPS = DIM / 16, CHUNKS = DIM / 8;  // rows of a tile; of 16 and of 8 columns
constexpr int TILE_BYTES = TILE * DIM * 2, STAGE_BYTES = 2 * TILE_BYTES, Q_PITCH = DIM + 8;
constexpr int WIDTH = (HEADS + 2 * KV_HEADS) * DIM;

struct Rotation {
  const u16* cos;  // [max_context, DIM / 2]
  const u16* sin;
  const u16* q_norm;  // [DIM]
  const u16* k_norm;
  float eps;
};
struct Pages {
  const int* starts;    // [sequences + 1]
  const int* contexts;  // [sequences]
  const int* block_at;  // [sequences]
  const int* blocks;
};
DEVICE float bf16_at(const u16* p) { return __uint_as_float((u32)*p << 16); }
DEVICE u16 to_bf16(float f) { return (u16)pack_bf16(f, 0.f); }
DEVICE float rounded(float f) { return bf16_low(pack_bf16(f, 0.f)); }
DEVICE size_t cell_of(const int* blocks, int position) {
  return (size_t)__ldg(blocks + position / BLOCK) * BLOCK + position % BLOCK;
}

// One head of one token by a warp: lane l has elements l, l + 32, ... of the left half and of the right one.
constexpr int HALF = DIM / 2, PER_LANE = (HALF + 31) / 32;
DEVICE void rotate_head(float* left, float* right, const u16* head, const u16* norm, const Rotation& r, int position,
                        int lane) {
  float squares = 0.f;
#pragma unroll
  for (int i = 0; i < PER_LANE; i++) {
    const int e = lane + i * 32;
    left[i] = e < HALF ? bf16_at(head + e) : 0.f;
    right[i] = e < HALF ? bf16_at(head + HALF + e) : 0.f;
    squares += left[i] * left[i] + right[i] * right[i];
  }
  if (NORM) {
#pragma unroll
    for (int o = 16; o; o >>= 1) squares += __shfl_xor_sync(~0u, squares, o);
    const float inverse = rsqrtf(squares / DIM + r.eps);
#pragma unroll
    for (int i = 0; i < PER_LANE; i++) {
      const int e = lane + i * 32;
      if (e >= HALF) continue;
      left[i] = rounded(left[i] * inverse * bf16_at(norm + e));
      right[i] = rounded(right[i] * inverse * bf16_at(norm + HALF + e));
    }
  }
#pragma unroll
  for (int i = 0; i < PER_LANE; i++) {
    const int e = lane + i * 32;
    if (e >= HALF) continue;
    const float c = bf16_at(r.cos + (size_t)position * HALF + e), s = bf16_at(r.sin + (size_t)position * HALF + e);
    const float l = left[i] * c - right[i] * s;
    right[i] = right[i] * c + left[i] * s;
    left[i] = l;
  }
}
DEVICE void store_head(u16* out, const float* left, const float* right, int lane) {
#pragma unroll
  for (int i = 0; i < PER_LANE; i++) {
    const int e = lane + i * 32;
    if (e < HALF) out[e] = to_bf16(left[i]), out[HALF + e] = to_bf16(right[i]);
  }
}
DEVICE void copy_head(u16* out, const u16* head, int lane) {
  for (int e = lane; e < DIM; e += 32) out[e] = head[e];
}

// For steps with chunks: rotated q [tokens, HEADS * DIM], and keys and values to the cache. A block is a token.
extern "C" __global__ void __launch_bounds__(THREADS)
rotate_and_store(u16* q, const u16* qkv, Rotation r, const int* positions, u16* keys, u16* values, Pages pages,
                 int sequences) {
  const int row = blockIdx.x, lane = threadIdx.x & 31;
  int low = 0, high = sequences;
  while (high - low > 1) {
    const int middle = (low + high) >> 1;
    if (pages.starts[middle] <= row) low = middle;
    else high = middle;
  }
  const bool is_padding = pages.contexts[low] == 0;
  const int position = positions[row];
  const size_t cell = is_padding ? 0 : cell_of(pages.blocks + pages.block_at[low], position);
  wait_for_predecessor();
  release_successor();
  const u16* mine = qkv + (size_t)row * WIDTH;
  for (int head = threadIdx.x >> 5; head < HEADS + 2 * KV_HEADS; head += WARPS) {
    float left[PER_LANE], right[PER_LANE];
    if (head < HEADS + KV_HEADS)
      rotate_head(left, right, mine + head * DIM, head < HEADS ? r.q_norm : r.k_norm, r, position, lane);
    if (head < HEADS) store_head(q + ((size_t)row * HEADS + head) * DIM, left, right, lane);
    else if (is_padding) continue;
    else if (head < HEADS + KV_HEADS) store_head(keys + (cell * KV_HEADS + head - HEADS) * DIM, left, right, lane);
    else copy_head(values + (cell * KV_HEADS + head - HEADS - KV_HEADS) * DIM, mine + head * DIM, lane);
  }
}

// What a warp has seen of a context. Lane 4 g + t: of queries 2 t and 2 t + 1 the highest score and the lane's share of
// the sum of weights; of their weighted values columns g and g + 8 of every sixteen, transposed as mma leaves them.
struct Seen {
  float top[2], sum[2], values[STEPS][4];
};
DEVICE u32 transpose(u32 pair) {
  u32 r;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0,%1;" : "=r"(r) : "r"(pair));
  return r;
}
DEVICE void ldmatrix4_transposed(u32* d, u32 address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3},[%4];"
               : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3]) : "r"(address));
}
// Eight columns of one row of a tile; neighbouring rows stand in different banks.
DEVICE u32 chunk_at(u32 tile, int row, int chunk) {
  return tile + row * DIM * 2 + ((chunk ^ (row & (CHUNKS < 8 ? CHUNKS - 1 : 7))) << 4);
}
// Takes in one tile, of which the first `count` rows are there.
DEVICE void see(Seen& seen, const u32 (*q)[2], u32 stage, int count, int lane) {
  // Scores are taken as powers of two.
  const float scale = 1.4426950408889634f * rsqrtf((float)DIM);
  const int part = lane >> 3, row = lane & 7, g = lane >> 2;
  float c[4] = {0.f, 0.f, 0.f, 0.f}, d[4] = {0.f, 0.f, 0.f, 0.f};
#pragma unroll
  for (int s = 0; s < STEPS; s++) {
    u32 k[4];
    ldmatrix4(k, chunk_at(stage, (part & 1) * 8 + row, 2 * s + (part >> 1)));
    mma(s & 1 ? d : c, k, q[s][0], q[s][1]);
  }
  float weights[4];
#pragma unroll
  for (int i = 0; i < 4; i++) weights[i] = g + (i >> 1) * 8 < count ? (c[i] + d[i]) * scale : -1e30f;
#pragma unroll
  for (int i = 0; i < 2; i++) {
    float top = fmaxf(weights[i], weights[i + 2]);
#pragma unroll
    for (int o = 4; o < 32; o <<= 1) top = fmaxf(top, __shfl_xor_sync(~0u, top, o));
    top = fmaxf(top, seen.top[i]);
    const float shrink = exp2f(seen.top[i] - top);
    weights[i] = g < count ? exp2f(weights[i] - top) : 0.f;
    weights[i + 2] = g + 8 < count ? exp2f(weights[i + 2] - top) : 0.f;
    seen.top[i] = top;
    seen.sum[i] = seen.sum[i] * shrink + weights[i] + weights[i + 2];
#pragma unroll
    for (int s = 0; s < STEPS; s++) seen.values[s][i] *= shrink, seen.values[s][i + 2] *= shrink;
  }
  const u32 low = transpose(pack_bf16(weights[0], weights[1])), high = transpose(pack_bf16(weights[2], weights[3]));
#pragma unroll
  for (int s = 0; s < STEPS; s++) {
    u32 v[4];
    ldmatrix4_transposed(v, chunk_at(stage + TILE_BYTES, (part >> 1) * 8 + row, 2 * s + (part & 1)));
    mma(seen.values[s], v, low, high);
  }
}
// Sequences of one token, everything in one kernel; others are left alone. Blocks (split, kv head, sequence).
extern "C" __global__ void __launch_bounds__(THREADS)
decode_attention(u16* out, const u16* qkv, Rotation r, const int* positions, u16* keys, u16* values, Pages pages,
                 int sequences) {
  extern __shared__ __align__(128) char shared[];
  char* stages = shared;                                      // [WARPS][2] of keys, then values
  u16* newest = (u16*)(stages + WARPS * 2 * STAGE_BYTES);     // [2][DIM] key and value of the newest token
  u16* q_shared = newest + 2 * DIM;                           // [8][Q_PITCH]
  float* block_values = (float*)(q_shared + 8 * Q_PITCH);     // [GROUP][DIM]
  float* block_tops = block_values + GROUP * DIM;             // [GROUP][2]: top, sum
  float* warp_tops = block_tops + 2 * GROUP;                  // [2][WARPS][8]: tops, sums
  float* warp_values = (float*)stages;                        // [WARPS][GROUP][DIM], when all tiles are done
  const int thread = threadIdx.x, lane = thread & 31, warp = thread >> 5, g = lane >> 2, t = lane & 3;
  const int split = SPLITS > 1 ? blockIdx.x : 0, kv_head = blockIdx.y, sequence = blockIdx.z;
  const int row = pages.starts[sequence];
  if (pages.starts[sequence + 1] != row + 1) {
    wait_for_predecessor();  // Who waits for this kernel relies on those before it as well.
    return;
  }
  const int context = pages.contexts[sequence], older = max(context - 1, 0);
  const int* blocks = pages.blocks + pages.block_at[sequence];
  // Shares of the older tokens, in whole tiles; the newest goes to the first split.
  const int share = (older + SPLITS * TILE - 1) / (SPLITS * TILE) * TILE;
  const int begin = min(split * share, older), end = min(begin + share, older);
  const u32 stage = smem_address(stages) + warp * 2 * STAGE_BYTES;

  auto fetch = [&](int parity, int tile) {
#pragma unroll
    for (int i = 0; i < TILE * CHUNKS / 32; i++) {
      const int token = (i * 32 + lane) / CHUNKS, chunk = (i * 32 + lane) % CHUNKS, ok = tile + token < end;
      const size_t at = ok ? (cell_of(blocks, tile + token) * KV_HEADS + kv_head) * DIM + chunk * 8 : 0;
      const u32 target = chunk_at(stage + parity * STAGE_BYTES, token, chunk);
      copy_async(target, keys + at, ok);
      copy_async(target + TILE_BYTES, values + at, ok);
    }
    commit_copies();
  };
  // Older tokens' rows are there already: the first tiles do not wait for this step's q.
  const int first = begin + warp * TILE;
  fetch(0, first);
  fetch(1, first + WARPS * TILE);
  for (int i = thread; i < Q_PITCH; i += THREADS) ((uint4*)q_shared)[i] = make_uint4(0, 0, 0, 0);
  __syncthreads();
  wait_for_predecessor();
  release_successor();

  const u16* mine = qkv + (size_t)row * WIDTH;
  const int position = positions[row];
  for (int h = warp; h < GROUP + 1; h += WARPS) {
    float left[PER_LANE], right[PER_LANE];
    if (h < GROUP) {
      rotate_head(left, right, mine + (kv_head * GROUP + h) * DIM, r.q_norm, r, position, lane);
      store_head(q_shared + h * Q_PITCH, left, right, lane);
    } else if (split == 0 && context > 0) {
      const size_t at = (cell_of(blocks, older) * KV_HEADS + kv_head) * DIM;
      const u16* value = mine + (HEADS + KV_HEADS + kv_head) * DIM;
      rotate_head(left, right, mine + (HEADS + kv_head) * DIM, r.k_norm, r, position, lane);
      store_head(keys + at, left, right, lane);
      store_head(newest, left, right, lane);
      copy_head(values + at, value, lane);
      copy_head(newest + DIM, value, lane);
    }
  }
  __syncthreads();
  u32 q[STEPS][2];
#pragma unroll
  for (int s = 0; s < STEPS; s++)
#pragma unroll
    for (int i = 0; i < 2; i++) q[s][i] = *(const u32*)(q_shared + g * Q_PITCH + s * 16 + i * 8 + t * 2);

  Seen seen;
#pragma unroll
  for (int i = 0; i < 2; i++) seen.top[i] = -1e30f, seen.sum[i] = 0.f;
#pragma unroll
  for (int s = 0; s < STEPS; s++)
#pragma unroll
    for (int i = 0; i < 4; i++) seen.values[s][i] = 0.f;
  int parity = 0;
  for (int tile = first; tile < end; tile += WARPS * TILE, parity ^= 1) {
    wait_copies<1>();
    __syncwarp();
    see(seen, q, stage + parity * STAGE_BYTES, end - tile, lane);
    __syncwarp();
    fetch(parity, tile + 2 * WARPS * TILE);
  }
  wait_copies<0>();
  if (split == 0 && warp == WARPS - 1 && context > 0) {
    __syncwarp();
    for (int i = lane; i < STAGE_BYTES / 16; i += 32) store_shared(stage + i * 16, make_uint4(0, 0, 0, 0));
    __syncwarp();
    // Row 0 of a tile stands in its natural order.
    for (int i = lane; i < 2 * CHUNKS; i += 32)
      store_shared(stage + i / CHUNKS * TILE_BYTES + i % CHUNKS * 16, ((const uint4*)newest)[i]);
    __syncwarp();
    see(seen, q, stage, 1, lane);
  }
  __syncthreads();

  // Lanes of one query, then warps, then blocks.
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const int h = 2 * t + i;
    float sum = seen.sum[i];
#pragma unroll
    for (int o = 4; o < 32; o <<= 1) sum += __shfl_xor_sync(~0u, sum, o);
    if (g == 0) warp_tops[warp * 8 + h] = seen.top[i], warp_tops[(WARPS + warp) * 8 + h] = sum;
    if (h >= GROUP) continue;
    float* target = warp_values + (warp * GROUP + h) * DIM + g;
#pragma unroll
    for (int s = 0; s < STEPS; s++) target[s * 16] = seen.values[s][i], target[s * 16 + 8] = seen.values[s][i + 2];
  }
  __syncthreads();
  for (int o = thread; o < GROUP * DIM; o += THREADS) {
    const int h = o / DIM;
    float top = -1e30f, sum = 0.f, value = 0.f;
#pragma unroll
    for (int w = 0; w < WARPS; w++) top = fmaxf(top, warp_tops[w * 8 + h]);
#pragma unroll
    for (int w = 0; w < WARPS; w++) {
      const float weight = exp2f(warp_tops[w * 8 + h] - top);
      sum += warp_tops[(WARPS + w) * 8 + h] * weight;
      value += warp_values[w * GROUP * DIM + o] * weight;
    }
    block_values[o] = value;
    if (o % DIM == 0) block_tops[2 * h] = top, block_tops[2 * h + 1] = sum;
  }
  if (SPLITS > 1) cluster_sync();
  else __syncthreads();
  u16* target = out + ((size_t)row * HEADS + kv_head * GROUP) * DIM;
  const u32 values_at = smem_address(block_values), tops_at = smem_address(block_tops);
  for (int o = (thread + split * THREADS) * 2; o < GROUP * DIM; o += SPLITS * THREADS * 2) {
    const int h = o / DIM;
    float2 value = make_float2(0.f, 0.f);
    float sum = 0.f;
    if (SPLITS == 1) {
      value = *(float2*)(block_values + o);
      sum = block_tops[2 * h + 1];
    } else {
      float top = -1e30f;
      float2 seen_by[SPLITS];
#pragma unroll
      for (int s = 0; s < SPLITS; s++) {
        seen_by[s] = load_remote(tops_at + h * 8, s);
        top = fmaxf(top, seen_by[s].x);
      }
#pragma unroll
      for (int s = 0; s < SPLITS; s++) {
        const float weight = exp2f(seen_by[s].x - top);
        const float2 part = load_remote(values_at + o * 4, s);
        sum += seen_by[s].y * weight;
        value.x += part.x * weight, value.y += part.y * weight;
      }
    }
    const float inverse = context > 0 ? 1.f / sum : 0.f;
    *(u32*)(target + o) = context > 0 ? pack_bf16(value.x * inverse, value.y * inverse) : 0;
  }
  if (SPLITS > 1) cluster_sync();
}
