// The address of one cached chunk: 16 bytes, no strings on the hot path.
#pragma once
#include <cstddef>
#include <cstdint>

namespace copick {

struct ChunkKey {
  std::uint64_t array;  // id of one version of one array
  std::uint64_t chunk;  // row-major index in that array's chunk grid

  friend bool operator==(const ChunkKey& a, const ChunkKey& b) noexcept { return a.array == b.array && a.chunk == b.chunk; }
};

// A finaliser in the manner of splitmix64: every input bit reaches every output bit.
inline std::uint64_t hash(const ChunkKey& key) noexcept {
  std::uint64_t h = key.array ^ (key.chunk + 0x9E3779B97F4A7C15ull + (key.array << 6));
  h = (h ^ (h >> 30)) * 0xBF58476D1CE4E5B9ull;
  h = (h ^ (h >> 27)) * 0x94D049BB133111EBull;
  return h ^ (h >> 31);
}

}  // namespace copick
