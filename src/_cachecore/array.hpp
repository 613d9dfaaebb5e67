// The geometry of one cached array and the copying of regions out of its chunks.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "file.hpp"
#include "generations.hpp"

namespace copick {

constexpr int kMaxDims = 16;

// A box with steps: elements start + i * step for i < count on each axis, written to `out` with `stride` bytes between
// neighbours. Steps are positive; an axis that is read backwards has a negative stride and `out` points at its last element.
struct Region {
  std::int64_t start[kMaxDims];
  std::int64_t step[kMaxDims];
  std::int64_t count[kMaxDims];
  std::int64_t stride[kMaxDims];
  std::byte* out = nullptr;

  bool empty(int ndim) const noexcept {
    for (int d = 0; d < ndim; ++d)
      if (count[d] <= 0) return true;
    return false;
  }
};

class Array {
 public:
  // `prefix` stands before the chunk's coordinates in its file name ("c/" in zarr v3). `encoded`: payloads are compressed, and
  // only decoded blocks handed in from outside can be copied from. `slots` and `seen`: see Watch.
  // Raises std::invalid_argument, std::system_error.
  Array(std::uint64_t id, const std::string& directory, std::vector<std::int64_t> shape, std::vector<std::int64_t> chunk,
        std::size_t itemsize, std::string fill, std::string prefix, bool encoded, std::vector<std::uint32_t> slots = {},
        std::uint64_t seen = 0);

  std::uint64_t id() const noexcept { return id_; }
  int ndim() const noexcept { return static_cast<int>(shape_.size()); }
  std::size_t itemsize() const noexcept { return itemsize_; }
  std::size_t chunk_bytes() const noexcept { return chunk_bytes_; }
  std::uint64_t chunk_count() const noexcept { return chunk_count_; }
  bool encoded() const noexcept { return encoded_; }
  const std::vector<std::int64_t>& shape() const noexcept { return shape_; }
  const Directory& directory() const noexcept { return directory_; }
  const Watch& watch() const noexcept { return watch_; }
  Watch& watch() noexcept { return watch_; }

  // The file of a chunk, such as "0/3/1" or "c/0/3/1", relative to the array's directory.
  std::string name(std::uint64_t chunk) const;
  // The marker that says "the source has no such chunk, it is all fill value".
  std::string absent_name(std::uint64_t chunk) const { return name(chunk) + ".absent"; }

  // The chunks that hold at least one element of the region, ascending.
  void overlapping(const Region& region, std::vector<std::uint64_t>& chunks) const;

  // Writes the whole decoded chunk to `out` (chunk_bytes() bytes) from a box of the array: `data` is the box's first element,
  // `origin` its place in the array, `extent` and `stride` (bytes) its shape. What the box does not cover becomes the fill
  // value.
  void assemble(std::uint64_t chunk, const std::byte* data, const std::int64_t* origin, const std::int64_t* extent,
                const std::int64_t* stride, std::byte* out) const noexcept;

  // Whether a decoded chunk holds nothing but the fill value, bit for bit.
  bool all_fill(const std::byte* chunk) const noexcept;

  // The chunks that lie in the box, as far as the array reaches, ascending.
  void inside(const std::int64_t* origin, const std::int64_t* extent, std::vector<std::uint64_t>& chunks) const;

  // Copies the part of `region` that lies in `chunk` from `data` (the whole decoded chunk, C order), or the fill value if null.
  // `stream`: the result is larger than the processor's caches, so write past them.
  void copy(const Region& region, std::uint64_t chunk, const std::byte* data, bool stream = false) const noexcept;

 private:
  void corner_of(std::uint64_t chunk, std::int64_t* corner) const noexcept;

  std::uint64_t id_;
  Directory directory_;
  std::vector<std::int64_t> shape_, chunk_, grid_;
  std::vector<std::int64_t> chunk_strides_;  // bytes between neighbours in a decoded chunk
  std::size_t itemsize_, chunk_bytes_;
  std::uint64_t chunk_count_;
  std::string fill_, prefix_;
  bool encoded_;
  Watch watch_;
};

}  // namespace copick
