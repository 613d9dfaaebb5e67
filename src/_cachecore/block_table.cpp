#include "block_table.hpp"

#include <algorithm>

namespace copick {
namespace {

constexpr std::uint64_t kSecond = 1'000'000;
constexpr int kSample = 16;

}  // namespace

void BlockTable::find(std::uint64_t array, const std::vector<std::uint64_t>& chunks, std::uint64_t now, TouchRing& ring,
                      std::vector<BlockRef>& blocks) {
  blocks.assign(chunks.size(), nullptr);
  const std::lock_guard guard(lock_);
  for (std::size_t i = 0; i < chunks.size(); ++i) {
    const ChunkKey key{array, chunks[i]};
    Entry* entry = table_.find(key);
    if (!entry) continue;
    if (entry->stamp / kSecond != now / kSecond) ring.push(key, now);
    entry->stamp = now;
    blocks[i] = entry->block;
  }
}

BlockRef BlockTable::put(const ChunkKey& key, BlockRef block, std::uint64_t now) {
  const bool heap = is_heap(*block);
  std::vector<BlockRef> freed;
  const std::lock_guard guard(lock_);
  if (const Entry* earlier = table_.find(key)) return earlier->block;
  // A block that alone passes the bound is used by the caller and not kept.
  if (heap ? block->size() > max_heap_bytes_ : max_mappings_ == 0) return block;
  table_[key] = {block, now};
  count(*block, true);
  BlockRef victim;
  while ((heap ? counts_.heap_bytes > max_heap_bytes_ : counts_.mappings > max_mappings_) && evict_one(heap, key, victim))
    freed.push_back(std::move(victim));
  return block;
}

void BlockTable::drop(const ChunkKey& key) {
  Entry freed;
  const std::lock_guard guard(lock_);
  if (table_.erase(key, &freed)) count(*freed.block, false);
}

void BlockTable::drop_array(std::uint64_t array) {
  std::vector<Entry> freed;
  const std::lock_guard guard(lock_);
  std::vector<ChunkKey> keys;
  table_.each([&](const ChunkKey& key, const Entry&) {
    if (key.array == array) keys.push_back(key);
  });
  for (const ChunkKey& key : keys) {
    table_.erase(key, &freed.emplace_back());
    count(*freed.back().block, false);
  }
}

void BlockTable::count(const Block& block, bool more) noexcept {
  const std::size_t sign = more ? 1 : static_cast<std::size_t>(-1);
  counts_.entries += sign;
  if (is_heap(block)) {
    counts_.heap_bytes += sign * block.size();
  } else {
    counts_.mappings += sign;
    counts_.mapped_bytes += sign * block.size();
  }
}

bool BlockTable::evict_one(bool heap, const ChunkKey& spare, BlockRef& out) {
  random_ ^= random_ << 13, random_ ^= random_ >> 7, random_ ^= random_ << 17;  // xorshift64
  const std::size_t slots = table_.capacity();
  std::size_t at = static_cast<std::size_t>(random_ % slots);
  const KeyTable<Entry>::Slot* coldest = nullptr;
  int seen = 0;
  for (std::size_t step = 0; step < slots && seen < kSample; ++step, at = at + 1 == slots ? 0 : at + 1) {
    const auto& slot = table_.slot(at);
    if (!slot.used || is_heap(*slot.value.block) != heap || slot.key == spare) continue;
    ++seen;
    if (!coldest || slot.value.stamp < coldest->value.stamp) coldest = &slot;
  }
  if (!coldest) return false;
  const ChunkKey key = coldest->key;
  Entry taken;
  table_.erase(key, &taken);
  count(*taken.block, false);
  ++counts_.evictions;
  out = std::move(taken.block);
  return true;
}

BlockTable::Counts BlockTable::counts() const {
  const std::lock_guard guard(lock_);
  return counts_;
}

std::vector<ChunkKey> BlockTable::held() const {
  const std::lock_guard guard(lock_);
  std::vector<ChunkKey> keys;
  keys.reserve(table_.size());
  table_.each([&](const ChunkKey& key, const Entry&) { keys.push_back(key); });
  return keys;
}

bool BlockTable::check() const {
  const std::lock_guard guard(lock_);
  Counts recount;
  bool whole = true;
  table_.each([&](const ChunkKey&, const Entry& entry) {
    if (!entry.block) {
      whole = false;
      return;
    }
    ++recount.entries;
    if (is_heap(*entry.block)) {
      recount.heap_bytes += entry.block->size();
    } else {
      ++recount.mappings;
      recount.mapped_bytes += entry.block->size();
    }
  });
  return whole && recount.entries == counts_.entries && recount.mappings == counts_.mappings &&
         recount.mapped_bytes == counts_.mapped_bytes && recount.heap_bytes == counts_.heap_bytes &&
         counts_.mappings <= max_mappings_ && counts_.heap_bytes <= max_heap_bytes_ && table_.consistent();
}

}  // namespace copick
