// int8: each row has one scale, by which its sums are multiplied in the end.
constexpr bool HAS_GROUP_SCALES = false;
constexpr int SHARE = 2, TABLE_BYTES = 0;
// Of a unit, a lane's.
struct Share { uint4 v[SHARE]; };

DEVICE u32 and_or(u32 a, u32 mask, u32 bits) {
  u32 r;
  asm volatile("lop3.b32 %0,%1,%2,%3,0xea;" : "=r"(r) : "r"(a), "r"(mask), "r"(bits));
  return r;
}
// Bytes 0 and 2 -> a pair of bf16, exactly and by neither table nor conversion: with these exponents the lower seven
// bits are 128 more than they say, and the sign bit makes 128 to 256, which is taken away.
DEVICE u32 pair_of(u32 codes) {
  const u32 more = and_or(codes, 0x007f007f, 0x43004300), less = and_or(codes, 0x00800080, 0x43004300);
  u32 r;
  asm("fma.rn.bf16x2 %0,%1,%2,%3;" : "=r"(r) : "r"(less), "r"(0xbf80bf80u), "r"(more));
  return r;
}

// A lane's share of a unit -> four A fragments (16 x 16 each), at once.
struct Format {
  DEVICE Format(const char*, int) {}
  DEVICE void prepare(char*, int, int) const {}
  DEVICE void take(const Share& codes, u32* a) const {
#pragma unroll
    for (int i = 0; i < 8; i++) {
      const u32 both = word(codes.v[i >> 2], i & 3);
      a[2 * i] = pair_of(both);
      a[2 * i + 1] = pair_of(prmt(both, 0, 0x4321u));
    }
  }
  DEVICE void finish(u32*) const {}
};
DEVICE float row_scale(const Weights& w, int n) { return __ldg((const float*)w.scales + n); }
// What is added to the sums before is divided by it.
DEVICE float row_unit(const Weights& w, int n) { return 1.f / row_scale(w, n); }

// The same fragments in full precision.
struct Exact {
  DEVICE Exact(int, int) {}
  DEVICE float2 pair(const Share& codes, int i) const {
    const u32 both = word(codes.v[i >> 3], (i >> 1) & 3) >> (8 * (i & 1));
    return make_float2((float)(signed char)both, (float)(signed char)(both >> 16));
  }
  // Of rows g and g + 8.
  DEVICE float2 scales(const Weights& w, int tile, int, int, int g, int N) const {
    return make_float2(row_scale(w, natural_row(tile * 16 + g, N)), row_scale(w, natural_row(tile * 16 + g + 8, N)));
  }
};
