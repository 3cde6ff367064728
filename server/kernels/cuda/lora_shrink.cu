// t[token, part, r] = x[token] A_part[r]^T for tiles of up to 8 tokens of one adapter: the first half of a
// low-rank update, for all linears that share x. One cluster a (tile, part): its blocks and their warps split K.
//
// Compiled with: CLUSTER (blocks that split K), WARPS (8 or 16), MAX_RANK.
constexpr int THREADS = WARPS * 32, AHEAD = 4;

struct Adapters {
  const u16* weights;
  const int4* places;  // of this layer's first part in slot 0; (a_at, b_at, rank) in units of 8 elements
  int slot_stride;     // places from one slot to the next
  int stride;          // floats from one part of t to the next
};

// Sixteen of the 64 columns of a group, for this lane's row: eight of either half, so that the four lanes of a row
// read whole sectors. Rows that are not there are zeros.
struct Strip { uint4 v[2]; };
DEVICE void load_strip(Strip& s, const uint4* p, int ok) {
  load_if(s.v[0], p, ok);
  load_if(s.v[1], p + 4, ok);
}

extern "C" __global__ void __launch_bounds__(THREADS, 16 / WARPS)
lora_shrink(float* t, const u16* x, Adapters adapters, const int* tiles, int K) {
  __shared__ float partials[WARPS][128];
  __shared__ float sums[((MAX_RANK + 15) / 16) * 128];
  const int thread = threadIdx.x, lane = thread & 31, warp = thread >> 5, g = lane >> 2, q4 = lane & 3;
  const int part = blockIdx.y, parts = gridDim.y, rank_in_cluster = CLUSTER > 1 ? cluster_rank() : 0;
  const int slot = tiles[blockIdx.z * 3], first = tiles[blockIdx.z * 3 + 1], count = tiles[blockIdx.z * 3 + 2];
  const int4 place = __ldg(adapters.places + (size_t)slot * adapters.slot_stride + part);
  const int rank = count ? place.z : 0, groups = K >> 6;
  const int begin = groups * rank_in_cluster / CLUSTER, end = groups * (rank_in_cluster + 1) / CLUSTER;
  bool waited = false;
  for (int r0 = 0; r0 < rank; r0 += 16) {
    const uint4* a = (const uint4*)adapters.weights + (u32)place.x + (size_t)(r0 + g) * (K >> 3) + q4;
    const int low = r0 + g < rank, high = r0 + g + 8 < rank;
    float c[4] = {0.f, 0.f, 0.f, 0.f}, d[4] = {0.f, 0.f, 0.f, 0.f};
    for (int group = begin + warp; group < end; group += WARPS * AHEAD) {
      Strip top[AHEAD], bottom[AHEAD], token[AHEAD];
#pragma unroll
      for (int i = 0; i < AHEAD; i++) {
        const int k = group + i * WARPS, ok = k < end;
        top[i] = bottom[i] = token[i] = Strip{make_uint4(0, 0, 0, 0), make_uint4(0, 0, 0, 0)};
        load_strip(top[i], a + k * 8, ok && low);
        load_strip(bottom[i], a + (size_t)K + k * 8, ok && high);
      }
      if (!waited) {
        wait_for_predecessor();
        release_successor();
        waited = true;
      }
#pragma unroll
      for (int i = 0; i < AHEAD; i++) {
        const int k = group + i * WARPS;
        load_strip(token[i], (const uint4*)(x + (size_t)(first + g) * K) + k * 8 + q4, k < end && g < count);
      }
#pragma unroll
      for (int i = 0; i < AHEAD; i++) {
        const u32* upper = (const u32*)top[i].v;
        const u32* lower = (const u32*)bottom[i].v;
        const u32* row = (const u32*)token[i].v;
#pragma unroll
        for (int q = 0; q < 4; q++) {
          const u32 fragment[4] = {upper[2 * q], lower[2 * q], upper[2 * q + 1], lower[2 * q + 1]};
          mma(q & 1 ? d : c, fragment, row[2 * q], row[2 * q + 1]);
        }
      }
    }
    // c: rows g, g + 8 of tokens 2 q4, 2 q4 + 1 -> [16 ranks][8 tokens]
    float* mine = partials[warp];
    mine[g * 8 + 2 * q4] = c[0] + d[0], mine[g * 8 + 2 * q4 + 1] = c[1] + d[1];
    mine[(g + 8) * 8 + 2 * q4] = c[2] + d[2], mine[(g + 8) * 8 + 2 * q4 + 1] = c[3] + d[3];
    __syncthreads();
    if (thread < 128) {
      float v = 0.f;
#pragma unroll
      for (int w = 0; w < WARPS; w++) v += partials[w][thread];
      sums[r0 * 8 + thread] = v;
    }
    __syncthreads();
  }
  if (!waited) {
    wait_for_predecessor();
    release_successor();
  }
  // All blocks of a cluster share tile and part, so they leave together.
  if (rank == 0) return;
  if (CLUSTER > 1) cluster_sync();
  const int padded = (rank + 7) & ~7;
  const u32 sums_at = smem_address(sums);
  for (int i = (thread + rank_in_cluster * THREADS) * 2; i < padded * 8; i += CLUSTER * THREADS * 2) {
    const int r = i >> 3, m = i & 7;
    float2 v = make_float2(0.f, 0.f);
    if (CLUSTER == 1) v = *(float2*)(sums + i);
    else
#pragma unroll
      for (int k = 0; k < CLUSTER; k++) {
        const float2 part_sum = load_remote(sums_at + i * 4, k);
        v.x += part_sum.x, v.y += part_sum.y;
      }
    float* out = t + ((size_t)(first + m) * parts + part) * adapters.stride + r;
    if (m < count) out[0] = v.x;
    if (m + 1 < count) out[(size_t)parts * adapters.stride] = v.y;
  }
  if (CLUSTER > 1) cluster_sync();
}
