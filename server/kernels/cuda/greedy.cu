// The likeliest token of each row of logits [rows, VOCAB]: the lowest id among equals, -1 where a logit is NaN or
// infinite. A logit and its id are one number that orders as they do.
//
// Compiled with: VOCAB, PARTS (blocks a row), THREADS.
DEVICE u64 key_of(float logit, int id) {
  const u32 bits = __float_as_uint(logit);
  // NaN and +inf stand above all.
  if ((bits & 0x7fffffffu) > 0x7f800000u || bits == 0x7f800000u) return ~0ull;
  const u32 ordered = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return (u64)ordered << 32 | (u32)~id;
}
DEVICE u64 highest(u64 key) {
  __shared__ u64 keys[THREADS / 32];
#pragma unroll
  for (int o = 16; o; o >>= 1) {
    const u64 other = __shfl_xor_sync(~0u, key, o);
    key = other > key ? other : key;
  }
  if ((threadIdx.x & 31) == 0) keys[threadIdx.x >> 5] = key;
  __syncthreads();
#pragma unroll
  for (int i = 0; i < THREADS / 32; i++) key = keys[i] > key ? keys[i] : key;
  return key;
}

extern "C" __global__ void __launch_bounds__(THREADS) greedy(u64* keys, const u16* logits) {
  wait_for_predecessor();
  release_successor();
  const u16* row = logits + (size_t)blockIdx.y * VOCAB;
  u64 key = 0;
  // Rows begin at multiples of 16 bytes only where the vocabulary is one of 8.
  if (VOCAB % 8 == 0) {
    for (int at = blockIdx.x * THREADS + threadIdx.x; at < VOCAB / 8; at += PARTS * THREADS) {
      const uint4 v = ((const uint4*)row)[at];
      const u32 words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
      for (int i = 0; i < 8; i++) {
        const float logit = i & 1 ? bf16_high(words[i >> 1]) : bf16_low(words[i >> 1]);
        const u64 other = key_of(logit, at * 8 + i);
        key = other > key ? other : key;
      }
    }
  } else {
    for (int at = blockIdx.x * THREADS + threadIdx.x; at < VOCAB; at += PARTS * THREADS) {
      const u64 other = key_of(__uint_as_float((u32)row[at] << 16), at);
      key = other > key ? other : key;
    }
  }
  key = highest(key);
  if (threadIdx.x == 0) keys[blockIdx.y * PARTS + blockIdx.x] = key;
}

extern "C" __global__ void __launch_bounds__(32) choose(int* tokens, const u64* keys) {
  wait_for_predecessor();
  release_successor();
  u64 key = 0;
  for (int i = threadIdx.x; i < PARTS; i += 32) {
    const u64 other = keys[blockIdx.x * PARTS + i];
    key = other > key ? other : key;
  }
#pragma unroll
  for (int o = 16; o; o >>= 1) {
    const u64 other = __shfl_xor_sync(~0u, key, o);
    key = other > key ? other : key;
  }
  // All -inf is no choice either.
  const bool none = key == ~0ull || (u32)(key >> 32) <= 0x007fffffu;
  if (threadIdx.x == 0) tokens[blockIdx.x] = none ? -1 : (int)~(u32)key;
}
