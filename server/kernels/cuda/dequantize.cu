// A tiled weight -> row-major bf16 [N, K], for steps of so many rows that a library's matmul is faster.
//
// Compiled with: PAIRS.
constexpr int WARPS = 8;

extern "C" __global__ void __launch_bounds__(WARPS * 32)
dequantize(u16* out, Weights w, int N, int K) {
  // Rows of 144 bytes: the pairs that a warp writes stand in different banks.
  __shared__ __align__(16) u32 stage[WARPS][16 * 36];
  const int thread = threadIdx.x, lane = thread & 31, warp = thread >> 5, g = lane >> 2, t = lane & 3;
  const Exact exact(thread, WARPS * 32);
  __syncthreads();
  const int groups = K >> 6, units = (N >> 4) * groups;
  u32* mine = stage[warp];
  for (int unit = blockIdx.x * WARPS + warp; unit < units; unit += gridDim.x * WARPS) {
    Share codes;
#pragma unroll
    for (int i = 0; i < SHARE; i++) codes.v[i] = __ldg(w.codes + ((size_t)unit * SHARE + i) * 32 + lane);
    const int tile = unit / groups, group = unit % groups;
    const float2 s = exact.scales(w, tile, group, groups, g, N);
#pragma unroll
    for (int i = 0; i < 16; i++) {
      // Of step i >> 2: rows g, g + 8 by i & 1, the lower or upper eight columns by i >> 1 & 1.
      const float2 pair = exact.pair(codes, i);
      const float scale = i & 1 ? s.y : s.x;
      mine[(g + 8 * (i & 1)) * 36 + (i >> 2) * 8 + (i >> 1 & 1) * 4 + t] = pack_bf16(pair.x * scale, pair.y * scale);
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int row = i * 4 + (lane >> 3), chunk = lane & 7;
      *(uint4*)(out + (size_t)natural_row(tile * 16 + row, N) * K + group * 64 + chunk * 8) = *(uint4*)(mine + row * 36 + chunk * 4);
    }
    __syncwarp();
  }
}
