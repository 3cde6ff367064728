// Tiled NF4 -> row-major bf16 [N, K], for steps of so many rows that a library's matmul is faster.
//
// Compiled with: PAIRS.
constexpr int WARPS = 8;

__constant__ float EXACT[16] = {
    -1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f,
    -0.28444138169288635f, -0.18477343022823334f, -0.09105003625154495f, 0.0f,
    0.07958029955625534f, 0.16093020141124725f, 0.24611230194568634f, 0.33791524171829224f,
    0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f};

extern "C" __global__ void __launch_bounds__(WARPS * 32)
nf4_dequantize(u16* out, Weights w, int N, int K) {
  __shared__ float table[16 * 32];
  // Rows of 144 bytes: the pairs that a warp writes stand in different banks.
  __shared__ __align__(16) u32 stage[WARPS][16 * 36];
  const int thread = threadIdx.x, lane = thread & 31, warp = thread >> 5, g = lane >> 2, t = lane & 3;
  for (int i = thread; i < 512; i += WARPS * 32) table[i] = EXACT[i >> 5];
  __syncthreads();
  const int groups = K >> 6, quads = (groups + 3) >> 2, units = (N >> 4) * groups;
  u32* mine = stage[warp];
  for (int unit = blockIdx.x * WARPS + warp; unit < units; unit += gridDim.x * WARPS) {
    const uint4 codes = __ldg(w.codes + (size_t)unit * 32 + lane);
    const int tile = unit / groups, group = unit % groups;
    const u32* quad = (const u32*)(w.scales + ((size_t)tile * quads + (group >> 2)) * 8 + g);
    float2 s = unpack_f16(__ldg(quad + (group & 3)));
    s.x *= w.gain, s.y *= w.gain;
    const u32 words[4] = {codes.x, codes.y, codes.z, codes.w};
#pragma unroll
    for (int q = 0; q < 4; q++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        // Byte i of word q: rows g, g + 8 by i & 1, the lower or upper eight columns by i >> 1.
        const u32 pair = words[q] >> (8 * i);
        const float scale = i & 1 ? s.y : s.x;
        const float low = table[(pair & 15) * 32 + lane], high = table[((pair >> 4) & 15) * 32 + lane];
        mine[(g + 8 * (i & 1)) * 36 + q * 8 + (i >> 1) * 4 + t] = pack_bf16(low * scale, high * scale);
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
