// A quantized weight in tiles of 16 rows, cut into units of 64 columns. Its format stands in format_*.cuh.
struct Weights {
  const uint4* codes;   // [N / 16][K / 64][SHARE][32 lanes]
  const uint4* scales;  // NF4: [N / 16][K / 256, rounded up][8 lanes], rows g and g + 8 (fp16 pairs) of four groups;
                        // int8: [N] float, of the linear's own rows
  const u16* bias;      // [N] or null
  float gain;           // NF4: power of two on all scales
};

// Where PAIRS is 1, tiles of gate and of up stand in turns: a block then has both factors of silu(gate) * up.
#ifndef PAIRS
#define PAIRS 0
#endif
// The linear's own number of a row of the tiles.
DEVICE int natural_row(int row, int N) {
  return PAIRS ? (row >> 4 & 1) * (N >> 1) + (row >> 5) * 16 + (row & 15) : row;
}
