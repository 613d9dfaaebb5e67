#include "cache.hpp"

#include <algorithm>
#include <cerrno>
#include <exception>
#include <memory>
#include <thread>

namespace copick {
namespace {

// Calls work(i) for i < n on `threads` threads, the caller's among them. Threads live for the call only: none can be lost in a
// fork. Raises what work raised first, after the last of them has ended.
template <class Work>
void share_out(std::size_t n, int threads, Work&& work) {
  std::atomic<std::size_t> next{0};
  std::atomic<bool> failed{false};
  std::exception_ptr failure;
  const auto run = [&]() noexcept {
    try {
      for (std::size_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < n;) work(i);
    } catch (...) {
      next = n;
      if (!failed.exchange(true)) failure = std::current_exception();
    }
  };
  std::vector<std::thread> helpers;
  const auto wanted = std::min(static_cast<std::size_t>(std::max(threads, 1)), n);
  try {
    while (helpers.size() + 1 < wanted) helpers.emplace_back(run);
  } catch (const std::exception&) {  // no more threads or memory to be had: do with those there are
  }
  run();
  for (std::thread& helper : helpers) helper.join();
  if (failure) std::rethrow_exception(failure);
}

// What a codec adds at most to data that it cannot compress.
constexpr std::size_t kCodecOverhead = 16;

// Results that do not stay in the processor's caches anyway are written past them.
constexpr std::int64_t kStreamBytes = std::int64_t{32} << 20;

std::int64_t bytes_of(const Array& array, const Region& region) noexcept {
  auto bytes = static_cast<std::int64_t>(array.itemsize());
  for (int d = 0; d < array.ndim(); ++d) bytes *= region.count[d];
  return bytes;
}

}  // namespace

bool Cache::read(const Array& array, const Region& region, int threads, std::vector<std::uint64_t>& missing) {
  if (!current(array)) return false;
  gather(array, region, threads, bytes_of(array, region) >= kStreamBytes, missing);
  return true;
}

void Cache::gather(const Array& array, const Region& region, int threads, bool stream, std::vector<std::uint64_t>& missing) {
  std::vector<std::uint64_t> chunks;
  array.overlapping(region, chunks);
  const std::uint64_t now = now_us();
  std::vector<BlockRef> blocks;
  blocks_.find(array.id(), chunks, now, ring, blocks);
  std::atomic<std::uint64_t> hits{0};
  share_out(chunks.size(), threads, [&](std::size_t i) {
    if (blocks[i])
      hits.fetch_add(1, std::memory_order_relaxed);
    else
      blocks[i] = load(array, chunks[i], now);
    if (blocks[i]) array.copy(region, chunks[i], blocks[i]->data(), stream);
  });
  chunk_hits_.fetch_add(hits, std::memory_order_relaxed);
  saved_.fetch_add(hits * array.chunk_bytes(), std::memory_order_relaxed);
  for (std::size_t i = 0; i < chunks.size(); ++i)
    if (!blocks[i]) missing.push_back(chunks[i]);
}

bool Cache::read_many(const Array& array, const std::vector<Region>& regions, int threads,
                      std::vector<std::uint64_t>& missing) {
  if (!current(array)) return false;
  std::vector<std::vector<std::uint64_t>> lacking(regions.size());
  std::int64_t bytes = 0;
  for (const Region& region : regions) bytes += bytes_of(array, region);
  const bool stream = bytes >= kStreamBytes;
  share_out(regions.size(), threads, [&](std::size_t i) { gather(array, regions[i], 1, stream, lacking[i]); });
  for (const auto& some : lacking) missing.insert(missing.end(), some.begin(), some.end());
  std::sort(missing.begin(), missing.end());
  missing.erase(std::unique(missing.begin(), missing.end()), missing.end());
  return true;
}

BlockRef Cache::load(const Array& array, std::uint64_t chunk, std::uint64_t now) {
  const ChunkKey key{array.id(), chunk};
  BlockRef block = array.encoded() ? nullptr : payload(array, chunk, true);
  if (!block && array.directory().has(array.absent_name(chunk))) {
    fills_.fetch_add(1, std::memory_order_relaxed);
    saved_.fetch_add(array.chunk_bytes(), std::memory_order_relaxed);
    block = Block::fill();
  }
  if (!block) {
    chunk_misses_.fetch_add(1, std::memory_order_relaxed);
    return nullptr;
  }
  ring.push(key, now);
  return blocks_.put(key, std::move(block), now);
}

BlockRef Cache::block(const Array& array, std::uint64_t chunk) {
  if (!current(array)) return nullptr;
  const std::uint64_t now = now_us();
  std::vector<BlockRef> found;
  blocks_.find(array.id(), {chunk}, now, ring, found);
  if (!found[0]) return load(array, chunk, now);
  chunk_hits_.fetch_add(1, std::memory_order_relaxed);
  saved_.fetch_add(array.chunk_bytes(), std::memory_order_relaxed);
  return found[0];
}

BlockRef Cache::payload(const Array& array, std::uint64_t chunk, bool map) {
  BlockRef block;
  int error = 0;
  const std::string name = array.name(chunk);
  const std::size_t least = array.encoded() ? 0 : array.chunk_bytes();
  const std::size_t most = array.chunk_bytes() + (array.encoded() ? kCodecOverhead : 0);
  switch (array.directory().load(name, least, most, map, block, error)) {
    case Found::whole:
      chunk_loads_.fetch_add(1, std::memory_order_relaxed);
      saved_.fetch_add(array.chunk_bytes(), std::memory_order_relaxed);
      return block;
    case Found::corrupt:
      corrupt_.fetch_add(1, std::memory_order_relaxed);
      array.directory().remove(name);
      return nullptr;
    case Found::failed:
      load_failures_.fetch_add(1, std::memory_order_relaxed);
      return nullptr;
    case Found::nothing:
      break;
  }
  return nullptr;
}

int Cache::insert(const Array& array, std::uint64_t chunk, const void* payload, std::size_t size) {
  const int error =
      !array.encoded() && size != array.chunk_bytes() ? EINVAL : array.directory().commit(array.name(chunk), payload, size);
  (error ? insert_failures_ : inserts_).fetch_add(1, std::memory_order_relaxed);
  return error;
}

int Cache::insert_box(const Array& array, const std::byte* data, const std::int64_t* origin, const std::int64_t* extent,
                      const std::int64_t* stride, std::vector<std::uint64_t>& written) {
  std::vector<std::uint64_t> chunks;
  array.inside(origin, extent, chunks);
  const std::unique_ptr<std::byte[]> whole(new std::byte[array.chunk_bytes()]);
  for (const std::uint64_t chunk : chunks) {
    array.assemble(chunk, data, origin, extent, stride, whole.get());
    if (array.all_fill(whole.get())) {
      if (const int error = insert_absent(array, chunk)) return error;
    } else {
      if (const int error = insert(array, chunk, whole.get(), array.chunk_bytes())) return error;
      written.push_back(chunk);
    }
  }
  return 0;
}

int Cache::insert_absent(const Array& array, std::uint64_t chunk) {
  const int error = array.directory().mark(array.absent_name(chunk));
  (error ? insert_failures_ : absents_).fetch_add(1, std::memory_order_relaxed);
  return error;
}

bool Cache::contains(const Array& array, std::uint64_t chunk) const {
  return array.directory().has(array.name(chunk)) || array.directory().has(array.absent_name(chunk));
}

int Cache::remove(const Array& array, std::uint64_t chunk) {
  blocks_.drop({array.id(), chunk});
  const int error = array.directory().remove(array.name(chunk));
  const int unmarking = array.directory().remove(array.absent_name(chunk));
  if (error && error != ENOENT) return error;
  return unmarking == ENOENT ? 0 : unmarking;
}

void Cache::keep(const Array& array, std::uint64_t chunk, const void* data, std::size_t size) {
  blocks_.put({array.id(), chunk}, Block::copy_of(data, size), now_us());
}

Cache::Stats Cache::stats() const noexcept {
  const auto get = [](const std::atomic<std::uint64_t>& count) { return count.load(std::memory_order_relaxed); };
  return {get(chunk_hits_),    get(chunk_loads_), get(chunk_misses_),    get(fills_),   get(corrupt_),
          get(load_failures_), get(inserts_),     get(insert_failures_), get(absents_), get(saved_)};
}

}  // namespace copick
