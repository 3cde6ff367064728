// NF4: a byte holds two codes, and each row has a scale for every 64 columns.
constexpr bool HAS_GROUP_SCALES = true;
constexpr int SHARE = 1, TABLE_BYTES = 65536;
// Of a unit, a lane's.
struct Share { uint4 v[SHARE]; };

// bitsandbytes' codebook, rounded to bf16.
__constant__ u16 CODEBOOK[16] = {0xbf80, 0xbf32, 0xbf06, 0xbeca, 0xbe92, 0xbe3d, 0xbdba, 0x0000,
                                 0x3da3, 0x3e25, 0x3e7c, 0x3ead, 0x3ee2, 0x3f10, 0x3f39, 0x3f80};

// A byte of two codes -> a pair of bf16, in shared memory, a copy for each bank: entry i, bank b stands at
// i * 256 + b * 4. The address of byte i of w is then one permutation, and no two lanes share a bank.
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

// How a lane's share of a unit becomes four A fragments (16 x 16 each): between the two steps its registers are free.
struct Format {
  u32 column;
  DEVICE Format(const char* shared, int lane) : column(table_column(shared, lane)) {}
  DEVICE void prepare(char* shared, int thread, int num_threads) const { fill_table(shared, thread, num_threads); }
  DEVICE void take(const Share& codes, u32* a) const { pair_addresses(codes.v[0], column, a); }
  DEVICE void finish(u32* a) const { load_pairs(a); }
};
// What a row's sums are multiplied by in the end.
DEVICE float row_scale(const Weights& w, int) { return w.gain; }
// What is added to the sums before is divided by it: the power of two's inverse.
DEVICE float row_unit(const Weights& w, int) { return __uint_as_float((254u << 23) - __float_as_uint(w.gain)); }

__constant__ float EXACT[16] = {
    -1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f,
    -0.28444138169288635f, -0.18477343022823334f, -0.09105003625154495f, 0.0f,
    0.07958029955625534f, 0.16093020141124725f, 0.24611230194568634f, 0.33791524171829224f,
    0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f};

// The same fragments in full precision.
struct Exact {
  const float* column;
  DEVICE Exact(int thread, int num_threads) {
    __shared__ float table[16 * 32];
    for (int i = thread; i < 512; i += num_threads) table[i] = EXACT[i >> 5];
    column = table + (thread & 31);
  }
  DEVICE float2 pair(const Share& codes, int i) const {
    const u32 byte = word(codes.v[0], i >> 2) >> (8 * (i & 3));
    return make_float2(column[(byte & 15) * 32], column[((byte >> 4) & 15) * 32]);
  }
  // Of rows g and g + 8.
  DEVICE float2 scales(const Weights& w, int tile, int group, int groups, int g, int) const {
    const u32* quad = (const u32*)(w.scales + ((size_t)tile * ((groups + 3) >> 2) + (group >> 2)) * 8 + g);
    const float2 s = unpack_f16(__ldg(quad + (group & 3)));
    return make_float2(s.x * w.gain, s.y * w.gain);
  }
};
