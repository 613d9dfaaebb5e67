#include "disk_index.hpp"

#include <algorithm>

namespace copick {
namespace {

constexpr std::uint64_t kChance = 32;   // of so many chunks that are to be refused, one is not
constexpr std::size_t kListShare = 16;  // of so many chunks, one is listed as cold
constexpr std::size_t kListAtLeast = 1024;

}  // namespace

std::uint64_t DiskIndex::add(const ChunkKey& key, std::uint64_t bytes, std::uint64_t stamp) {
  const std::lock_guard guard(lock_);
  Entry& entry = table_[key];
  const std::uint64_t before = entry.bytes;
  entry.bytes = bytes;
  account(key.array, before, bytes);
  if (!before || entry.stamp < stamp) {
    entry.stamp = std::max(entry.stamp, stamp);
    used(entry);
  }
  return before;
}

std::uint64_t DiskIndex::remove(const ChunkKey& key) {
  const std::lock_guard guard(lock_);
  Entry entry;
  if (!table_.erase(key, &entry)) return 0;
  account(key.array, entry.bytes, 0);
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
    account(array, entry.bytes, 0);
  }
  owners_.erase(array);
}

void DiskIndex::touch(const std::vector<Touch>& touches) {
  const std::lock_guard guard(lock_);
  for (const Touch& touch : touches) {
    Entry* entry = table_.find(touch.key);
    if (!entry || entry->stamp >= touch.stamp) continue;
    entry->stamp = touch.stamp;
    used(*entry);
  }
}

void DiskIndex::replace(const std::vector<Row>& rows, std::uint64_t since) {
  const std::lock_guard guard(lock_);
  KeyTable<Entry> table;
  for (const Row& row : rows) table[row.key] = {row.bytes, row.stamp};
  table_.each([&](const ChunkKey& key, const Entry& known) {
    if (Entry* entry = table.find(key))
      entry->stamp = std::max(entry->stamp, known.stamp);
    else if (known.stamp >= since)
      table[key] = known;
  });
  table_ = std::move(table);
  bytes_ = 0;
  group_bytes_.clear();
  for (auto& [array, owner] : owners_) owner.bytes = 0;
  table_.each([&](const ChunkKey& key, const Entry& entry) { account(key.array, 0, entry.bytes); });
  cold_.clear();
  horizon_ = 0;
}

void DiskIndex::assign(std::uint64_t array, std::uint32_t group) {
  const std::lock_guard guard(lock_);
  Owner& owner = owners_[array];
  if (owner.group == group) return;
  group_bytes_[owner.group] -= owner.bytes;
  group_bytes_[group] += owner.bytes;
  owner.group = group;
  cold_.clear();  // it may be of one of the two
  horizon_ = 0;
}

bool DiskIndex::admits(Policy policy, std::uint32_t group, std::uint64_t stale_before) {
  if (policy != Policy::epoch) return policy == Policy::lru;
  const std::lock_guard guard(lock_);
  const Touch* victim = coldest(group);
  random_ ^= random_ << 13, random_ ^= random_ >> 7, random_ ^= random_ << 17;  // xorshift64
  return !victim || victim->stamp < stale_before || random_ % kChance == 0;
}

std::vector<Touch> DiskIndex::victims(const Need& need) {
  const std::lock_guard guard(lock_);
  coldest(need.group);  // makes a list if there is none
  for (bool everybody = false;; everybody = list_coldest(need.group, 2 * cold_.size() + kListAtLeast)) {
    std::vector<Touch> chosen;
    std::uint64_t bytes = 0;
    const auto enough = [&] { return bytes >= need.bytes && chosen.size() >= need.files; };
    for (auto at = cold_.rbegin(); at != cold_.rend(); ++at) {
      const Entry* entry = current(*at);
      if (!entry) continue;
      if (enough() && (bytes - need.bytes >= need.more || at->stamp >= need.more_before)) return chosen;
      bytes += entry->bytes;
      chosen.push_back(*at);
    }
    if (everybody || (enough() && bytes - need.bytes >= need.more)) return chosen;
  }
}

std::uint64_t DiskIndex::bytes(std::uint32_t group) const {
  const std::lock_guard guard(lock_);
  if (!group) return bytes_;
  const auto found = group_bytes_.find(group);
  return found == group_bytes_.end() ? 0 : found->second;
}

std::size_t DiskIndex::size() const {
  const std::lock_guard guard(lock_);
  return table_.size();
}

std::size_t DiskIndex::memory() const {
  const std::lock_guard guard(lock_);
  return table_.capacity() * sizeof(KeyTable<Entry>::Slot) + cold_.capacity() * sizeof(Touch);
}

bool DiskIndex::check() const {
  const std::lock_guard guard(lock_);
  std::uint64_t bytes = 0;
  std::unordered_map<std::uint64_t, std::uint64_t> by_array;
  std::unordered_map<std::uint32_t, std::uint64_t> by_group;
  KeyTable<char> listed;
  bool right = table_.consistent();
  for (const Touch& touch : cold_)
    if (current(touch)) listed[touch.key] = 1;
  table_.each([&](const ChunkKey& key, const Entry& entry) {
    bytes += entry.bytes;
    by_array[key.array] += entry.bytes;
    by_group[group_of(key.array)] += entry.bytes;
    const bool of_group = !cold_group_ || group_of(key.array) == cold_group_;
    right = right && (!of_group || listed.find(key) || entry.stamp >= horizon_);
  });
  for (const auto& [array, owner] : owners_) right = right && owner.bytes == by_array[array];
  for (const auto& [group, total] : group_bytes_) right = right && total == by_group[group];
  for (const auto& [array, total] : by_array) right = right && owners_.count(array);
  return right && bytes == bytes_ && std::is_sorted(cold_.begin(), cold_.end(), colder_last);
}

std::uint32_t DiskIndex::group_of(std::uint64_t array) const {
  const auto found = owners_.find(array);
  return found == owners_.end() ? 0 : found->second.group;
}

void DiskIndex::account(std::uint64_t array, std::uint64_t before, std::uint64_t after) {
  Owner& owner = owners_[array];
  owner.bytes += after - before;
  group_bytes_[owner.group] += after - before;
  bytes_ += after - before;
}

// A chunk has come, or has a new stamp. Hardly ever one that is cold: then the list is made anew.
void DiskIndex::used(const Entry& entry) {
  if (entry.stamp >= horizon_) return;
  cold_.clear();
  horizon_ = 0;
}

const DiskIndex::Entry* DiskIndex::current(const Touch& touch) const noexcept {
  const Entry* entry = table_.find(touch.key);
  return entry && entry->stamp == touch.stamp ? entry : nullptr;
}

const Touch* DiskIndex::coldest(std::uint32_t group) {
  for (const bool listed : {false, true}) {
    if (listed || cold_group_ != group) list_coldest(group, kListAtLeast);
    while (!cold_.empty()) {
      if (current(cold_.back())) return &cold_.back();
      cold_.pop_back();
    }
  }
  return nullptr;
}

// Lists the `count` coldest chunks of a group, or a sixteenth of all if that is more. Whether these are all.
bool DiskIndex::list_coldest(std::uint32_t group, std::size_t count) {
  const auto of_group = [&](const ChunkKey& key) { return !group || group_of(key.array) == group; };
  std::vector<std::uint64_t> stamps;
  stamps.reserve(table_.size());
  table_.each([&](const ChunkKey& key, const Entry& entry) {
    if (of_group(key)) stamps.push_back(entry.stamp);
  });
  count = std::min(std::max(count, stamps.size() / kListShare), stamps.size());
  cold_.clear();
  cold_group_ = group;
  horizon_ = 0;
  if (!count) return true;
  std::nth_element(stamps.begin(), stamps.begin() + static_cast<std::ptrdiff_t>(count - 1), stamps.end());
  horizon_ = stamps[count - 1];
  cold_.reserve(count);
  table_.each([&](const ChunkKey& key, const Entry& entry) {
    if (entry.stamp <= horizon_ && of_group(key)) cold_.push_back({key, entry.stamp});
  });
  std::sort(cold_.begin(), cold_.end(), colder_last);
  return cold_.size() == stamps.size();
}

}  // namespace copick
