#include "array.hpp"

#include <algorithm>
#include <cstring>
#include <limits>
#include <stdexcept>

#if defined(__SSE2__) || defined(_M_X64)
#define COPICK_STREAM 1
#include <emmintrin.h>
#endif

namespace copick {
namespace {

constexpr std::int64_t kPrefetchRows = 6;  // rows ahead whose cache lines are asked for: measured best between 4 and 8

// One axis of a copy: `count` items, `from` and `to` bytes apart.
struct Axis {
  std::int64_t count, from, to;
};

inline void prefetch_row(const std::byte* row, std::size_t bytes) noexcept {
#if defined(__GNUC__) || defined(__clang__)
  for (std::size_t at = 0; at < bytes; at += 64) __builtin_prefetch(row + at);
#else
  (void)row, (void)bytes;
#endif
}

// Copies a row into memory that will not be read soon. Plain stores fetch each line of the target before they overwrite it, a
// third of all traffic; whole lines written past the caches do not. Needs a fence before others may read.
inline void stream_row(std::byte* to, const std::byte* from, std::size_t bytes) noexcept {
#ifdef COPICK_STREAM
  constexpr std::size_t line = 64;
  const std::size_t head = std::min((line - (reinterpret_cast<std::uintptr_t>(to) & (line - 1))) & (line - 1), bytes);
  std::memcpy(to, from, head);
  to += head, from += head, bytes -= head;
  for (; bytes >= line; bytes -= line, to += line, from += line) {
    const auto* source = reinterpret_cast<const __m128i*>(from);
    auto* target = reinterpret_cast<__m128i*>(to);
    const __m128i a = _mm_loadu_si128(source), b = _mm_loadu_si128(source + 1), c = _mm_loadu_si128(source + 2),
                  d = _mm_loadu_si128(source + 3);
    _mm_stream_si128(target, a);
    _mm_stream_si128(target + 1, b);
    _mm_stream_si128(target + 2, c);
    _mm_stream_si128(target + 3, d);
  }
#endif
  std::memcpy(to, from, bytes);
}

template <class Word>
void copy_words(const std::byte* from, std::byte* to, std::int64_t n, std::int64_t from_step, std::int64_t to_step) noexcept {
  for (; n; --n, from += from_step, to += to_step) {
    Word word;
    std::memcpy(&word, from, sizeof word);
    std::memcpy(to, &word, sizeof word);
  }
}

// Items that are not neighbours in source or target: a stepped or reversed last axis, or a fill value (from_step 0).
void copy_items(const std::byte* from, std::byte* to, const Axis& axis, std::size_t itemsize) noexcept {
  struct Pair {
    std::uint64_t a, b;
  };
  switch (itemsize) {
    case 1:
      return copy_words<std::uint8_t>(from, to, axis.count, axis.from, axis.to);
    case 2:
      return copy_words<std::uint16_t>(from, to, axis.count, axis.from, axis.to);
    case 4:
      return copy_words<std::uint32_t>(from, to, axis.count, axis.from, axis.to);
    case 8:
      return copy_words<std::uint64_t>(from, to, axis.count, axis.from, axis.to);
    case 16:
      return copy_words<Pair>(from, to, axis.count, axis.from, axis.to);
    default:
      for (std::int64_t i = 0; i < axis.count; ++i) std::memcpy(to + i * axis.to, from + i * axis.from, itemsize);
  }
}

template <bool Stream>
void copy_axes(const std::byte* from, std::byte* to, const Axis* axes, int depth, std::size_t itemsize) noexcept {
  const auto copy_row = [](std::byte* target, const std::byte* source, std::size_t bytes) {
    if constexpr (Stream)
      stream_row(target, source, bytes);
    else
      std::memcpy(target, source, bytes);
  };
  const Axis& axis = axes[0];
  const auto item = static_cast<std::int64_t>(itemsize);
  if (depth == 1) {
    if (axis.from == item && axis.to == item)
      copy_row(to, from, static_cast<std::size_t>(axis.count) * itemsize);
    else
      copy_items(from, to, axis, itemsize);
    return;
  }
  if (depth == 2 && axes[1].from == item && axes[1].to == item) {
    const std::size_t row = static_cast<std::size_t>(axes[1].count) * itemsize;
    for (std::int64_t i = 0; i < axis.count; ++i) {
      if (i + kPrefetchRows < axis.count) prefetch_row(from + (i + kPrefetchRows) * axis.from, row);
      copy_row(to + i * axis.to, from + i * axis.from, row);
    }
    return;
  }
  for (std::int64_t i = 0; i < axis.count; ++i)
    copy_axes<Stream>(from + i * axis.from, to + i * axis.to, axes + 1, depth - 1, itemsize);
}

// The first selected position at or after `at`, as an index into the selection.
std::int64_t first_index(std::int64_t at, std::int64_t start, std::int64_t step) noexcept {
  return at <= start ? 0 : (at - start + step - 1) / step;
}

}  // namespace

Array::Array(std::uint64_t id, const std::string& directory, std::vector<std::int64_t> shape, std::vector<std::int64_t> chunk,
             std::size_t itemsize, std::string fill, std::string prefix, bool encoded, std::vector<std::uint32_t> slots,
             std::uint64_t seen)
    : id_(id),
      directory_(directory),
      shape_(std::move(shape)),
      chunk_(std::move(chunk)),
      itemsize_(itemsize),
      fill_(std::move(fill)),
      prefix_(std::move(prefix)),
      encoded_(encoded),
      watch_(std::move(slots), seen) {
  if (shape_.size() != chunk_.size() || shape_.size() > static_cast<std::size_t>(kMaxDims))
    throw std::invalid_argument("shape and chunk must have the same number of axes, at most 16");
  if (itemsize_ == 0 || fill_.size() != itemsize_) throw std::invalid_argument("the fill value must be one item long");
  constexpr auto limit = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
  std::uint64_t bytes = itemsize_, count = 1;
  chunk_strides_.resize(shape_.size());
  for (std::size_t d = shape_.size(); d-- > 0;) {
    if (shape_[d] < 0 || chunk_[d] <= 0) throw std::invalid_argument("shape must be >= 0 and chunk > 0 on every axis");
    chunk_strides_[d] = static_cast<std::int64_t>(bytes);
    if (bytes > limit / static_cast<std::uint64_t>(chunk_[d])) throw std::invalid_argument("the chunk is too large");
    bytes *= static_cast<std::uint64_t>(chunk_[d]);
  }
  for (std::size_t d = 0; d < shape_.size(); ++d) {
    const std::int64_t across = shape_[d] / chunk_[d] + (shape_[d] % chunk_[d] != 0);
    grid_.push_back(across);
    if (across && count > limit / static_cast<std::uint64_t>(across)) throw std::invalid_argument("too many chunks");
    count *= static_cast<std::uint64_t>(across);
  }
  chunk_bytes_ = static_cast<std::size_t>(bytes);
  chunk_count_ = count;
}

std::string Array::name(std::uint64_t chunk) const {
  if (shape_.empty()) return prefix_.empty() ? "0" : prefix_.substr(0, prefix_.size() - 1);
  std::string coordinates;
  for (std::size_t d = grid_.size(); d-- > 0;) {
    const auto across = static_cast<std::uint64_t>(grid_[d]);
    const std::string part = std::to_string(chunk % across);
    coordinates = coordinates.empty() ? part : part + "/" + coordinates;
    chunk /= across;
  }
  return prefix_ + coordinates;
}

void Array::overlapping(const Region& region, std::vector<std::uint64_t>& chunks) const {
  const int n = ndim();
  if (region.empty(n)) return;
  chunks.push_back(0);
  std::vector<std::uint64_t> outer;
  for (int d = 0; d < n; ++d) {
    outer.swap(chunks);
    chunks.clear();
    const std::int64_t last = region.start[d] + (region.count[d] - 1) * region.step[d];
    const bool every = region.step[d] <= chunk_[d];  // no chunk in between can be stepped over
    for (const std::uint64_t above : outer) {
      std::int64_t previous = -1;
      if (every)
        for (std::int64_t at = region.start[d] / chunk_[d]; at <= last / chunk_[d]; ++at)
          chunks.push_back(above * static_cast<std::uint64_t>(grid_[d]) + static_cast<std::uint64_t>(at));
      else
        for (std::int64_t i = 0; i < region.count[d]; ++i) {
          const std::int64_t at = (region.start[d] + i * region.step[d]) / chunk_[d];
          if (at != previous) chunks.push_back(above * static_cast<std::uint64_t>(grid_[d]) + static_cast<std::uint64_t>(at));
          previous = at;
        }
    }
  }
}

void Array::corner_of(std::uint64_t chunk, std::int64_t* corner) const noexcept {
  for (std::size_t d = grid_.size(); d-- > 0;) {
    const auto across = static_cast<std::uint64_t>(grid_[d]);
    corner[d] = static_cast<std::int64_t>(chunk % across) * chunk_[d];
    chunk /= across;
  }
}

void Array::inside(const std::int64_t* origin, const std::int64_t* extent, std::vector<std::uint64_t>& chunks) const {
  Region cells;  // the grid cells of the box, one element each
  for (int d = 0; d < ndim(); ++d) {
    const auto at = static_cast<std::size_t>(d);
    const std::int64_t end = std::min(origin[d] + extent[d], shape_[at]);
    const std::int64_t first = first_index(origin[d], 0, chunk_[at]);
    // A cell belongs to the box if the box reaches the cell's end or the array's.
    const std::int64_t last = end == shape_[at] ? first_index(end, 0, chunk_[at]) : end / chunk_[at];
    cells.start[d] = first * chunk_[at];
    cells.step[d] = chunk_[at];
    cells.count[d] = last - first;
  }
  overlapping(cells, chunks);
}

void Array::assemble(std::uint64_t chunk, const std::byte* data, const std::int64_t* origin, const std::int64_t* extent,
                     const std::int64_t* stride, std::byte* out) const noexcept {
  std::int64_t corner[kMaxDims];
  corner_of(chunk, corner);
  Axis axes[kMaxDims];
  bool whole = true;
  const std::byte* from = data;
  std::byte* to = out;
  for (int d = 0; d < ndim(); ++d) {
    const auto at = static_cast<std::size_t>(d);
    const std::int64_t first = std::max(corner[d], origin[d]);
    const std::int64_t end = std::min({corner[d] + chunk_[at], origin[d] + extent[d], shape_[at]});
    whole = whole && first == corner[d] && end == corner[d] + chunk_[at];
    axes[d] = {std::max<std::int64_t>(end - first, 0), stride[d], chunk_strides_[at]};
    from += (first - origin[d]) * stride[d];
    to += (first - corner[d]) * chunk_strides_[at];
  }
  const auto item = static_cast<std::int64_t>(itemsize_);
  if (!whole)
    copy_items(reinterpret_cast<const std::byte*>(fill_.data()), out, {static_cast<std::int64_t>(chunk_bytes_) / item, 0, item},
               itemsize_);
  if (ndim() == 0)
    std::memcpy(to, from, itemsize_);
  else
    copy_axes<false>(from, to, axes, ndim(), itemsize_);
}

bool Array::all_fill(const std::byte* chunk) const noexcept {
  // If the first item is the fill value and every byte equals the one an item before it, all items are.
  return std::memcmp(chunk, fill_.data(), itemsize_) == 0 &&
         std::memcmp(chunk, chunk + itemsize_, chunk_bytes_ - itemsize_) == 0;
}

void Array::copy(const Region& region, std::uint64_t chunk, const std::byte* data, bool stream) const noexcept {
  Axis axes[kMaxDims];
  int depth = 0;
  const std::byte* from = data ? data : reinterpret_cast<const std::byte*>(fill_.data());
  std::byte* to = region.out;
  std::int64_t corner[kMaxDims];
  corner_of(chunk, corner);
  for (int d = 0; d < ndim(); ++d) {
    const auto at = static_cast<std::size_t>(d);
    const std::int64_t first = first_index(corner[d], region.start[d], region.step[d]);
    const std::int64_t end = std::min(region.count[d], first_index(corner[d] + chunk_[at], region.start[d], region.step[d]));
    if (first >= end) return;
    if (data) from += (region.start[d] + first * region.step[d] - corner[d]) * chunk_strides_[at];
    to += first * region.stride[d];
    const Axis axis{end - first, data ? region.step[d] * chunk_strides_[at] : 0, region.stride[d]};
    if (axis.count == 1 && d + 1 < ndim()) continue;
    // Two axes that lie end to end in both source and target are one.
    if (depth && axes[depth - 1].from == axis.count * axis.from && axes[depth - 1].to == axis.count * axis.to && data) {
      axes[depth - 1] = {axes[depth - 1].count * axis.count, axis.from, axis.to};
      continue;
    }
    axes[depth++] = axis;
  }
  if (depth == 0) axes[depth++] = {1, static_cast<std::int64_t>(itemsize_), static_cast<std::int64_t>(itemsize_)};
  if (!stream) return copy_axes<false>(from, to, axes, depth, itemsize_);
  copy_axes<true>(from, to, axes, depth, itemsize_);
#ifdef COPICK_STREAM
  _mm_sfence();
#endif
}

}  // namespace copick
