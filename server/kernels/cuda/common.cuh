// What every kernel here shares: types, loads and tensor-core instructions.
// Sources are compiled by NVRTC without any header of CUDA's, so that none needs to be installed.
typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned long long u64;

#define DEVICE __device__ __forceinline__

DEVICE u32 smem_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }

// Byte permutation; volatile, so that the compiler keeps it ahead of the load that reuses its operand.
DEVICE u32 prmt(u32 a, u32 b, u32 selector) {
  u32 r;
  asm volatile("prmt.b32 %0,%1,%2,%3;" : "=r"(r) : "r"(a), "r"(b), "r"(selector));
  return r;
}

DEVICE u32 word(const uint4& v, int i) { return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w; }
DEVICE float bf16_low(u32 pair) { return __uint_as_float(pair << 16); }
DEVICE float bf16_high(u32 pair) { return __uint_as_float(pair & 0xffff0000u); }
DEVICE u32 pack_bf16(float low, float high) {
  u32 r;
  asm("cvt.rn.bf16x2.f32 %0,%1,%2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}
DEVICE float2 unpack_f16(u32 pair) {
  float2 r;
  asm("{.reg .b16 l,h; mov.b32 {l,h},%2; cvt.f32.f16 %0,l; cvt.f32.f16 %1,h;}"
      : "=f"(r.x), "=f"(r.y) : "r"(pair));
  return r;
}

// Streaming 16-byte loads into registers that keep their values where `ok` is 0: no branch, no move. Weights are
// read once and in order.
DEVICE void load_if(uint4& v, const uint4* p, int ok) {
  asm volatile(
      "{.reg .pred p; setp.ne.b32 p,%5,0; @p ld.global.L1::no_allocate.v4.u32 {%0,%1,%2,%3},[%4];}"
      : "+r"(v.x), "+r"(v.y), "+r"(v.z), "+r"(v.w) : "l"(p), "r"(ok));
}
DEVICE void load_weights(uint4& v, const uint4* p, int ok) {
  asm volatile(
      "{.reg .pred p; setp.ne.b32 p,%5,0;"
      "@p ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0,%1,%2,%3},[%4];}"
      : "+r"(v.x), "+r"(v.y), "+r"(v.z), "+r"(v.w) : "l"(p), "r"(ok));
}
DEVICE void load_half_if(uint2& v, const void* p, int ok) {
  asm volatile("{.reg .pred p; setp.ne.b32 p,%3,0; @p ld.global.nc.v2.u32 {%0,%1},[%2];}"
               : "+r"(v.x), "+r"(v.y) : "l"(p), "r"(ok));
}
// What is read once need not push anything else out of L2.
DEVICE u64 evict_first() {
  u64 policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0,1.0;" : "=l"(policy));
  return policy;
}
// 16 bytes from global to shared memory; zeros where `ok` is 0.
DEVICE void copy_async(u32 target, const void* source, int ok) {
  asm volatile("cp.async.cg.shared.global [%0],[%1],16,%2;" :: "r"(target), "l"(source), "r"(ok ? 16 : 0));
}
// The same for weights, which are read once and in order.
DEVICE void stream_async(u32 target, const void* source, int ok, u64 policy) {
  asm volatile("cp.async.cg.shared.global.L2::cache_hint.L2::256B [%0],[%1],16,%2,%3;"
               :: "r"(target), "l"(source), "r"(ok ? 16 : 0), "l"(policy));
}
DEVICE void commit_copies() { asm volatile("cp.async.commit_group;"); }
// Until at most PENDING of the committed groups are still on their way; they land in order.
template <int PENDING> DEVICE void wait_copies() {
  asm volatile("cp.async.wait_group %0;" :: "n"(PENDING) : "memory");
}
DEVICE uint4 load_shared(u32 address) {
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3},[%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(address));
  return v;
}
DEVICE void store_shared(u32 address, const uint4& v) {
  asm volatile("st.shared.v4.u32 [%0],{%1,%2,%3,%4};" :: "r"(address), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}
// Brings that many bytes, a multiple of 16, to L2; called by `threads` threads.
DEVICE void prefetch_l2(const char* p, u32 bytes, int thread, int threads) {
#if __CUDA_ARCH__ >= 900
  if (thread == 0 && bytes) asm volatile("cp.async.bulk.prefetch.L2.global [%0],%1;" :: "l"(p), "r"(bytes) : "memory");
#else
  for (u32 o = thread * 128; o < bytes; o += threads * 128) asm volatile("prefetch.global.L2 [%0];" :: "l"(p + o));
#endif
}

DEVICE void ldmatrix4(u32* d, u32 address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3},[%4];"
               : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3]) : "r"(address));
}
// c[16 rows, 8 tokens] += a[16 rows, 16 k] b[16 k, 8 tokens]
DEVICE void mma(float* c, const u32* a, u32 b0, u32 b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

#if __CUDA_ARCH__ >= 900
// Programmatic dependent launch: wait until the kernel before is done, let the one after begin.
DEVICE void wait_for_predecessor() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
DEVICE void release_successor() { asm volatile("griddepcontrol.launch_dependents;"); }
DEVICE void cluster_sync() {
  asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
}
DEVICE u32 cluster_rank() { u32 r; asm("mov.u32 %0,%%cluster_ctarank;" : "=r"(r)); return r; }
// The float at a shared-memory address of another block of the cluster.
DEVICE float2 load_remote(u32 address, u32 rank) {
  float2 v;
  asm volatile("{.reg .b32 a; mapa.shared::cluster.u32 a,%2,%3; ld.shared::cluster.v2.f32 {%0,%1},[a];}"
               : "=f"(v.x), "=f"(v.y) : "r"(address), "r"(rank));
  return v;
}
#else
DEVICE void wait_for_predecessor() {}
DEVICE void release_successor() {}
DEVICE void cluster_sync() {}
DEVICE u32 cluster_rank() { return 0; }
DEVICE float2 load_remote(u32 address, u32 rank) { return make_float2(0.f, 0.f); }
#endif
