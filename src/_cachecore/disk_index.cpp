#include "disk_index.hpp"

#include <algorithm>

namespace copick {

std::uint64_t DiskIndex::add(const ChunkKey& key, std::uint64_t bytes, std::uint64_t stamp) {
  const std::lock_guard guard(lock_);
  Entry& entry = table_[key];
  const std::uint64_t before = entry.bytes;
  entry.bytes = bytes;
  entry.stamp = std::max(entry.stamp, stamp);
  bytes_ += bytes - before;
  return before;
}

std::uint64_t DiskIndex::remove(const ChunkKey& key) {
  const std::lock_guard guard(lock_);
  Entry entry;
  if (!table_.erase(key, &entry)) return 0;
  bytes_ -= entry.bytes;
  return entry.bytes;
}

void DiskIndex::remove_array(std::uint64_t array) {
  const std::lock_guard guard(lock_);
  std::vector<ChunkKey> keys;
  table_.each([&](const ChunkKey& key, const Entry&) {
    if (key.array == array) keys.push_back(key);
  });
  for (const ChunkKey& key : keys) {
    Entry entry;
    table_.erase(key, &entry);
    bytes_ -= entry.bytes;
  }
}

void DiskIndex::touch(const std::vector<Touch>& touches) {
  const std::lock_guard guard(lock_);
  for (const Touch& touch : touches)
    if (Entry* entry = table_.find(touch.key)) entry->stamp = std::max(entry->stamp, touch.stamp);
}

void DiskIndex::clear() {
  const std::lock_guard guard(lock_);
  table_.clear();
  bytes_ = 0;
}

std::vector<ChunkKey> DiskIndex::victims(std::uint64_t need) const {
  struct Candidate {
    std::uint64_t stamp, bytes;
    ChunkKey key;
  };
  std::vector<Candidate> all;
  {
    const std::lock_guard guard(lock_);
    all.reserve(table_.size());
    table_.each([&](const ChunkKey& key, const Entry& entry) { all.push_back({entry.stamp, entry.bytes, key}); });
  }
  const auto warmer = [](const Candidate& a, const Candidate& b) { return a.stamp > b.stamp; };
  std::make_heap(all.begin(), all.end(), warmer);  // linear; then each victim costs a logarithm
  std::vector<ChunkKey> chosen;
  for (std::uint64_t freed = 0; freed < need && !all.empty(); all.pop_back()) {
    std::pop_heap(all.begin(), all.end(), warmer);
    freed += all.back().bytes;
    chosen.push_back(all.back().key);
  }
  return chosen;
}

std::uint64_t DiskIndex::bytes() const {
  const std::lock_guard guard(lock_);
  return bytes_;
}

std::size_t DiskIndex::size() const {
  const std::lock_guard guard(lock_);
  return table_.size();
}

std::size_t DiskIndex::memory() const {
  const std::lock_guard guard(lock_);
  return table_.capacity() * sizeof(KeyTable<Entry>::Slot);
}

bool DiskIndex::check() const {
  const std::lock_guard guard(lock_);
  std::uint64_t bytes = 0;
  table_.each([&](const ChunkKey&, const Entry& entry) { bytes += entry.bytes; });
  return bytes == bytes_ && table_.consistent();
}

}  // namespace copick
