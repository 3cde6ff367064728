// The small operations between the linears; a row is a token's.
//
// Compiled with: HIDDEN (columns of a row), THREADS.
constexpr int CHUNKS = (HIDDEN / 8 + THREADS - 1) / THREADS;  // of 8 columns, a thread

DEVICE void unpack8(float* f, const uint4& v) {
  const u32 words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int i = 0; i < 4; i++) f[2 * i] = bf16_low(words[i]), f[2 * i + 1] = bf16_high(words[i]);
}
DEVICE uint4 pack8(const float* f) {
  return make_uint4(pack_bf16(f[0], f[1]), pack_bf16(f[2], f[3]), pack_bf16(f[4], f[5]), pack_bf16(f[6], f[7]));
}

// residual += x, then normed = residual / rms(residual) * weight.
extern "C" __global__ void __launch_bounds__(THREADS)
add_rms_norm(uint4* normed, uint4* residual, const uint4* x, const uint4* weight, float eps) {
  __shared__ float sums[THREADS / 32];
  const int thread = threadIdx.x, lane = thread & 31;
  const size_t row = (size_t)blockIdx.x * (HIDDEN / 8);
  uint4 scale[CHUNKS];
#pragma unroll
  for (int c = 0; c < CHUNKS; c++)
    if (thread + c * THREADS < HIDDEN / 8) scale[c] = __ldg(weight + thread + c * THREADS);
  wait_for_predecessor();
  release_successor();
  float values[CHUNKS][8], sum = 0.f;
#pragma unroll
  for (int c = 0; c < CHUNKS; c++) {
    const int at = thread + c * THREADS;
    if (at >= HIDDEN / 8) continue;
    float other[8];
    unpack8(values[c], residual[row + at]);
    unpack8(other, x[row + at]);
#pragma unroll
    for (int i = 0; i < 8; i++) values[c][i] += other[i];
    const uint4 rounded = pack8(values[c]);
    residual[row + at] = rounded;
    unpack8(values[c], rounded);
#pragma unroll
    for (int i = 0; i < 8; i++) sum += values[c][i] * values[c][i];
  }
#pragma unroll
  for (int o = 16; o; o >>= 1) sum += __shfl_xor_sync(~0u, sum, o);
  if (lane == 0) sums[thread >> 5] = sum;
  __syncthreads();
  sum = 0.f;
#pragma unroll
  for (int i = 0; i < THREADS / 32; i++) sum += sums[i];
  const float inverse = rsqrtf(sum / HIDDEN + eps);
#pragma unroll
  for (int c = 0; c < CHUNKS; c++) {
    const int at = thread + c * THREADS;
    if (at >= HIDDEN / 8) continue;
    float factor[8];
    unpack8(factor, scale[c]);
#pragma unroll
    for (int i = 0; i < 8; i++) values[c][i] *= inverse * factor[i];
    normed[row + at] = pack8(values[c]);
  }
}

// gate_up [tokens, 2 HIDDEN] -> silu(gate) * up [tokens, HIDDEN]
extern "C" __global__ void __launch_bounds__(THREADS)
silu_mul(uint4* out, const uint4* gate_up) {
  const int at = blockIdx.x * THREADS + threadIdx.x;
  wait_for_predecessor();
  release_successor();
  if (at >= HIDDEN / 8) return;
  const uint4* row = gate_up + (size_t)blockIdx.y * (HIDDEN / 4);
  float gate[8], up[8];
  unpack8(gate, row[at]);
  unpack8(up, row[HIDDEN / 8 + at]);
#pragma unroll
  for (int i = 0; i < 8; i++) gate[i] = gate[i] / (1.f + __expf(-gate[i])) * up[i];
  out[(size_t)blockIdx.y * (HIDDEN / 8) + at] = pack8(gate);
}

// x[token] = table[id]; an id -(r + 1) stands for previous[r].
extern "C" __global__ void __launch_bounds__(THREADS)
embed(uint4* x, const int* token_ids, const int* previous, const uint4* table) {
  wait_for_predecessor();
  release_successor();
  int id = token_ids[blockIdx.x];
  // A token that could not be sampled is -1; whatever stands for it, its sequence has failed.
  if (id < 0) id = max(previous[-id - 1], 0);
  for (int at = threadIdx.x; at < HIDDEN / 8; at += THREADS)
    x[(size_t)blockIdx.x * (HIDDEN / 8) + at] = __ldg(table + (size_t)id * (HIDDEN / 8) + at);
}
